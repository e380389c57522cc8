"""The parts of `scripts/bench`, one idea a file.

lab         the scratch folder, and servers that are stopped whatever happens
load        the workloads, and fio that puts them on a device
contenders  what is compared: one interface; nbdkit's file plugin
qemu        QEMU's storage daemon, idle and with continuous incremental backup
flashmirror a pair of sites, idle and cycling without pause
metrics     what the source tells Prometheus: counters, histograms
first_copy  the first full copy against nbdcopy
scale       64 TiB against 1 GiB
report      figures with their goals, tables, JSON
machine     what it ran on

No module here imports flashmirror: the bench sees what a user sees, the command, the device, the
metrics.
"""

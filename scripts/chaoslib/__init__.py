"""The rooms of `scripts/chaos`; none of them imports anything of the project.

nbd.py        a small NBD client
chains.py     what one client wrote, in order: the history that images are compared with
writers.py    the threads that issue the chains; how long each write waited
judge.py      whether an image is an exact prefix of all chains, of one moment
relay.py      the link: a process that cuts, stalls and delays
disk.py       the plugin of an NBD server with a volatile cache and faults on command
servers.py    that server as a process
sites.py      two sites, driven by the `flashmirror` command
scratch.py    the image of a stopped target, found by promoting it and putting it back
statedisk.py  a small file system that can be full
watch.py      what `status` claims, against what happens
stage.py      all of the above, set up for one seed
faults.py     the faults by kind
show.py       one run: rounds of faults and judgements, the healing, the counters
record.py     the log of what was done, counters, failures
"""

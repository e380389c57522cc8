"""What `scripts/release-check` is made of: `machine` takes what a bare Debian needs to reach its
packages from this machine, `root` makes one and runs commands in it, `judge` reads what they say.
"""

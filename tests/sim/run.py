import sys, time, traceback
from collections import Counter
from sim.world import World
first, count = int(sys.argv[1]), int(sys.argv[2])
trace = print if len(sys.argv) > 3 else None
counts = Counter(); states=set()
t=time.time()
bad=0
for seed in range(first, first+count):
    w = World(seed, trace)
    try:
        w.run()
    except BaseException as e:
        print("seed", seed, repr(e)[:300]); bad+=1
        if trace: traceback.print_exc()
        if bad>10: break
    counts += w.counts; states |= w.states
    w.scheduler.tasks.clear()
print(counts, len(states), (time.time()-t)/count*1000, "ms each")

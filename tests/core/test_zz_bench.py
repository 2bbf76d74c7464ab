import asyncio, sys, psutil
async def test_bench(building, core, call, engines, secrets_folder):
    m = await building.new_module()
    pid = await call(m, "pid")
    c0={p:psutil.Process(p).cpu_times().user+psutil.Process(p).cpu_times().system for p in (core.pid,pid)}
    p=await asyncio.create_subprocess_exec(sys.executable,"/tmp/exp/rc.py",engines.etcd_endpoints[0],str(secrets_folder/"cluster_secret"),m.id)
    await p.wait()
    for q,n in ((core.pid,"core"),(pid,"driver")):
        t=psutil.Process(q).cpu_times(); print(n, "us per call", (t.user+t.system-c0[q])/48000*1e6)

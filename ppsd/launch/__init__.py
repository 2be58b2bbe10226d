"""Starts the processes of a run as paddle.distributed.launch does, and ends them so that nothing is lost.

    python -m ppsd.launch [options of paddle.distributed.launch] script.py [flags]

Paddle's own launcher, 2.6.2 to 3.3.1, sends the processes SIGTERM three times in 0.4 s, kills them 30 s later and ends
with exit code 15 whatever theirs were; after one has ended it kills the others within 4 s and may end with their code;
and it heeds --max_restart only with an etcd server. This one sends a signal once, waits until the checkpoint is
written, and ends with the code of the process that ended first. A second signal ends at once. On several machines each
launcher notices when another one is gone.
"""

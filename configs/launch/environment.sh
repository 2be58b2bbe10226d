# Environment of a run on several machines. Source it before the launch script, on every machine:
#   . configs/launch/environment.sh
# Each line keeps a value that is set already. README.md beside this file explains them.

# The network interface between the machines: gloo (CPU) needs it where a machine has several. The launcher sets
# GLOO_SOCKET_IFNAME by itself to the interface that leads to --master.
# export GLOO_SOCKET_IFNAME=eth0
# NCCL (GPU) tries all but the loopback's and docker's; name it where it picks a wrong one (a prefix is enough).
# export NCCL_SOCKET_IFNAME=eth0
# InfiniBand or RoCE: which cards; 3 for RoCE v2; 1 switches them off and takes the interface above.
# export NCCL_IB_HCA=mlx5
# export NCCL_IB_GID_INDEX=3
# export NCCL_IB_DISABLE=1

# How long InfiniBand waits for an answer (4.096 us * 2^22 = 17 s) and how often it tries: a switch may restart.
export NCCL_IB_TIMEOUT="${NCCL_IB_TIMEOUT:-22}"
export NCCL_IB_RETRY_CNT="${NCCL_IB_RETRY_CNT:-7}"
# Warnings of NCCL belong in the workers' logs. INFO shows which interface it took.
export NCCL_DEBUG="${NCCL_DEBUG:-WARN}"
# Longer than the longest pause between two collectives: a checkpoint that rank 0 writes. Milliseconds.
export PADDLE_PG_TIMEOUT="${PADDLE_PG_TIMEOUT:-1800000}"

#!/usr/bin/env bash
# A SLURM cluster of this one machine, to try sweeps on: a node with two processors, jobs can be queued again, no
# accounts. It needs Debian's packages slurm-wlm and munge, and root; it works in a container without systemd.
#
#   scripts/slurm/one_machine.sh start FOLDER    # prints what to set: export SLURM_CONF=FOLDER/slurm.conf
#   scripts/slurm/one_machine.sh stop FOLDER
#
# FOLDER takes keys, logs and all state. Clusters in several folders do not know each other.
set -euo pipefail

usage() {
    sed -n '5,6s/^# *//p' "$0" >&2
    exit 2
}

# the process whose number a daemon has written, if it is still that daemon
end() {
    local pid
    pid=$(cat "$1" 2>/dev/null) || return 0
    if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" != "$2" ]; then return 0; fi
    kill "$pid"
    for _ in $(seq 100); do
        if ! kill -0 "$pid" 2>/dev/null; then return 0; fi
        sleep 0.1
    done
    kill -9 "$pid"
}

stop() {
    if [ -f "$folder/slurm.conf" ] && command -v scancel >/dev/null; then
        SLURM_CONF="$folder/slurm.conf" timeout 10 scancel --quiet --user=root 2>/dev/null || true
    fi
    end "$folder/slurmd.pid" slurmd
    end "$folder/slurmctld.pid" slurmctld
    end "$folder/munged.pid" munged
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
}

start() {
    if [ "$(id -u)" != 0 ]; then
        echo "$0: it needs root" >&2
        exit 1
    fi
    for program in munged slurmctld slurmd srun; do
        if ! command -v "$program" >/dev/null; then
            echo "$0: there is no $program; apt-get install slurm-wlm munge" >&2
            exit 1
        fi
    done
    if [ -n "$(ls -A "$folder")" ] && ! grep -qs '^ClusterName=one_machine$' "$folder/slurm.conf"; then
        echo "$0: $folder holds something else; give a new folder" >&2
        exit 1
    fi
    stop
    rm -rf "$folder"
    mkdir -p "$folder/state" "$folder/spool"
    chmod 755 "$folder"
    ulimit -n 65536 2>/dev/null || true
    local host
    host=$(hostname -s)
    dd if=/dev/urandom of="$folder/munge.key" bs=128 count=1 status=none
    chmod 400 "$folder/munge.key"
    # --force: it may lie in /tmp, and root may run it
    munged --force --socket="$folder/munge.socket" --key-file="$folder/munge.key" --pid-file="$folder/munged.pid" \
        --log-file="$folder/munged.log" --seed-file="$folder/munged.seed" 2>"$folder/munged.err"
    # cred_expire is also how long a job waits that was queued again; proctrack and task: without cgroups
    cat >"$folder/slurm.conf" <<EOF
ClusterName=one_machine
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$(free_port)
SlurmdPort=$(free_port)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
JobRequeue=1
KillWait=15
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
NodeName=$host NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
EOF
    export SLURM_CONF="$folder/slurm.conf"
    slurmctld -c
    slurmd -c
    for _ in $(seq 300); do
        if [ "$(sinfo --noheader --format=%T 2>/dev/null)" = idle ]; then
            echo "export SLURM_CONF=$folder/slurm.conf"
            return 0
        fi
        sleep 0.1
    done
    echo "$0: the node is not ready after 30 s; see the logs in $folder" >&2
    tail -n 5 "$folder"/*.log >&2
    exit 1
}

if [ $# != 2 ]; then usage; fi
mkdir -p "$2"
folder=$(cd "$2" && pwd)
case "$1" in
    start) start ;;
    stop) stop ;;
    *) usage ;;
esac

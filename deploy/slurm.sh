#!/bin/bash
# sbatch deploy/slurm.sh python train.py
#
# One training in as many jobs as it takes. Two minutes before the time is over Slurm sends SIGUSR1 to
# this script, which has it sent to the training: that saves and ends with 75, and the job is put in
# the queue again, under the same number. `Run(..., signals=[signal.SIGUSR1])` listens to it; for what
# listens to SIGTERM alone, as Keras's fit does: `STOP_SIGNAL=TERM sbatch deploy/slurm.sh …`.
# What happens on preemption, `scancel` and a node's death: docs/how-to/slurm.md.
#
#SBATCH --job-name=training
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=training-%j.log
set -u

stop_signal=${STOP_SIGNAL:-USR1}
time_is_over=
trap 'time_is_over=yes; scancel --signal="$stop_signal" "$SLURM_JOB_ID"' USR1  # to its steps, not to us
trap : TERM    # preempted, or cancelled: the training is told by Slurm, and we wait for it

if [ $# -eq 0 ]; then
  set -- python train.py
fi
srun "$@" &
training=$!

# A signal ends `wait`, not the training; bash remembers with what that has ended.
while kill -0 "$training" 2>/dev/null; do
  wait "$training"
done
wait "$training"
status=$?

# 75: saved. 138, 143: ended by SIGUSR1, or SIGTERM; if before training, nothing was lost but time.
case "$time_is_over $status" in
  "yes 75" | "yes 138" | "yes 143") scontrol requeue "$SLURM_JOB_ID" ;;
esac
exit "$status"

#!/usr/bin/env bash
# Trains on a Cloud TPU VM or slice: the same command on every host, which find one another by the
# slice's metadata.
#
#   launch/tpu.sh NAME ZONE setup                   copies the repository, installs it everywhere
#   launch/tpu.sh NAME ZONE train --config=configs/onethinker.py --workdir=/mnt/shared/runs/mine
#   DRY_RUN=1 launch/tpu.sh NAME ZONE train ...     prints the command, and runs nothing
#
# The model, the data and --workdir lie on storage that all hosts mount (Filestore, or a bucket
# through gcsfuse). The same command again goes on where the run was.
#
#   FOLDER     of the repository on the hosts, default g2rpo
#   PROJECT    default: gcloud's own
set -euo pipefail

fail() { echo "error: $*" >&2; exit 1; }

[ $# -ge 3 ] || fail "usage: launch/tpu.sh NAME ZONE setup | train FLAGS"
name=$1 zone=$2 job=$3
shift 3
folder=${FOLDER:-g2rpo}
where=("$name" "--zone=$zone" --worker=all)
[ -z "${PROJECT:-}" ] || where+=("--project=$PROJECT")

run() {
  if [ -n "${DRY_RUN:-}" ]; then
    printf '%q ' "$@"
    echo
  else
    "$@"
  fi
}

case "$job" in
  setup)
    run git archive --format=tar.gz --output=g2rpo.tar.gz HEAD
    run gcloud compute tpus tpu-vm scp g2rpo.tar.gz "$name:" "${where[@]:1}"
    run gcloud compute tpus tpu-vm ssh "${where[@]}" --command="mkdir -p $(printf %q "$folder") && tar -xzf g2rpo.tar.gz -C $(printf %q "$folder") && cd $(printf %q "$folder") && python3 -m venv .venv && .venv/bin/pip install -e '.[tpu]'"
    ;;
  train)
    workdir=
    for argument in "$@"; do
      case "$argument" in --workdir=*) workdir=${argument#--workdir=} ;; esac
    done
    [ -n "$workdir" ] || fail "--workdir=FOLDER is needed: a folder that all hosts mount"
    flags=$(printf ' %q' "$@" --requeue)
    run gcloud compute tpus tpu-vm ssh "${where[@]}" --command="cd $(printf %q "$folder") && .venv/bin/python launch/train.py$flags"
    ;;
  *) fail "there is no job $job: setup or train" ;;
esac

#!/bin/sh
# Writes deploy/requirements/NAME.txt from NAME.in: every package with its version and its hashes.
#
#   deploy/lock.sh torch jax            (needs `uv`; `pip install uv`)
#
# Versions are those of requirements/pins.txt where it names them: an image trains with what the suite
# was run with. `pip install --require-hashes` refuses whatever has another hash.
#
# What can be trusted. The files that lie here hold the hashes that were told under the name pypi.org,
# through a proxy that ends TLS. A few (mdurl, mpmath) are those that others have published; the rest
# was not compared with anything. A wrong one stops a build, it lets nothing in. Where you trust your
# way to the index, run this once: `git diff` shows whether anything differs.
#
# What does not lie here. torch-cpu.txt, from PyTorch's own index, which could not be reached: what
# pypi.org has under the name torch brings CUDA along, gigabytes that a CPU does not need. Nor
# jax-gpu.txt and tensorflow-gpu.txt, nor the digests of base images, which `--build-arg BASE=` takes.
set -eu
cd "$(dirname "$0")/requirements"

if [ $# -eq 0 ]; then
  echo "usage: deploy/lock.sh NAME...   one of: $(ls ./*.in | grep -v base | sed 's|./||; s|\.in||' | tr '\n' ' ')" >&2
  exit 2
fi

for name in "$@"; do
  set --
  if [ "$name" = torch-cpu ]; then
    set -- --index https://download.pytorch.org/whl/cpu --index-strategy unsafe-best-match --emit-index-url
  fi
  uv --no-config pip compile --quiet --universal --python-version 3.11 --generate-hashes \
    --no-annotate --custom-compile-command "deploy/lock.sh $name" --constraint ../../requirements/pins.txt \
    --default-index https://pypi.org/simple "$@" --output-file "$name.txt" "$name.in"
done

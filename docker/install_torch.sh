#!/bin/sh
# Installs the build of torch that an image is for. TORCH: cpu or cuda. TORCH_INDEX: a package index that has it;
# without one the default index is asked, whose builds for Linux are those for CUDA.
set -eu
case "${TORCH:-}" in
  cuda) ;;
  cpu)
    if [ -z "${TORCH_INDEX:-}" ]; then
      echo "TORCH=cpu needs TORCH_INDEX, the URL of an index with torch for CPUs: the default index has the" \
        "builds for CUDA. PyTorch's page Get Started tells it (Linux, Pip, CPU)." >&2
      exit 2
    fi
    ;;
  *)
    echo "TORCH=${TORCH:-}: give cpu or cuda" >&2
    exit 2
    ;;
esac
# Of a given index torch alone: what it needs may be missing there, or of other versions than in the constraints.
if [ -n "${TORCH_INDEX:-}" ]; then
  pip install --constraint constraints.txt --no-deps --index-url "$TORCH_INDEX" torch torchvision
fi
pip install --constraint constraints.txt torch torchvision
python -c "
import sys
import torch
built = 'cuda' if torch.version.cuda else 'rocm' if torch.version.hip else 'cpu'
sys.exit(None if built == '$TORCH' else f'torch {torch.__version__} is a build for {built}, not for $TORCH')"

# The image of every vidan service: `docker build -t vidan .`
# It runs on CPUs and on NVIDIA GPUs (`docker run --gpus all … vidan vidan worker`). For hosts without
# a GPU, PyTorch's build for CPUs makes the image a tenth of the size: pytorch.org names its index,
# which goes into `--build-arg TORCH_INDEX=…`.
FROM python:3.11-slim AS build

# The index that torch comes from; empty: pip's default, which is the build for CUDA.
ARG TORCH_INDEX=

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/vidan
ENV PATH=/opt/vidan/bin:$PATH
WORKDIR /src

# torch alone, before the code, so that a change of the code does not download it again.
COPY constraints.txt ./
RUN pip install -c constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch torchvision

COPY pyproject.toml README.md LICENSE NOTICE alembic.ini ./
COPY migrations migrations
COPY vidan vidan
RUN pip install -c constraints.txt ".[worker,api]"


FROM python:3.11-slim

RUN useradd --create-home --uid 1000 vidan \
    && install -d -o vidan -g vidan /home/vidan/.cache /videos
COPY --from=build /opt/vidan /opt/vidan
ENV PATH=/opt/vidan/bin:$PATH PYTHONUNBUFFERED=1

USER vidan
WORKDIR /home/vidan
CMD ["vidan", "--help"]

# mtseg in a container; docs/how-to/docker.md has the commands.
#
#     docker build -t mtseg .                                 # processor
#     docker build -t mtseg:gpu --build-arg DEVICE=gpu .      # NVIDIA GPU

ARG PYTHON_VERSION=3.12

FROM python:${PYTHON_VERSION}-slim AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:${PYTHON_VERSION}-slim
ARG DEVICE=cpu
# With the GPU's libraries TensorFlow finds NVIDIA's driver, which the host gives to the container.
# setup.cfg bounds the versions.
# hadolint ignore=DL3013
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    case "$DEVICE" in \
        cpu) gpu="" ;; \
        gpu) gpu="tensorflow[and-cuda]" ;; \
        *) echo "DEVICE=$DEVICE: give cpu or gpu." >&2; exit 2 ;; \
    esac \
    && pip install --no-cache-dir "$(echo /wheels/*.whl)[report,openvino,itk,dicom]" ${gpu:+"$gpu"} \
    && useradd --create-home --uid 1000 mtseg

USER 1000:1000
# A home that any user can write to, for `docker run --user`.
ENV HOME=/tmp
WORKDIR /work
ENTRYPOINT ["mtseg"]
CMD ["--help"]

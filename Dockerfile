# mtseg in a container; docs/how-to/docker.md has the commands.
#
#     docker build -t mtseg .                                 # processor
#     docker build -t mtseg:gpu --build-arg DEVICE=gpu .      # NVIDIA GPU
#     docker build -t mtseg:predict --target predict .        # prediction alone, on the processor

ARG PYTHON_VERSION=3.12

FROM python:${PYTHON_VERSION}-slim AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && cp requirements-predict.txt /wheels

# Without TensorFlow, and without what OpenVINO has for other devices and for files of other
# formats: its page "Libraries for Local Distribution" says what is needed.
FROM python:${PYTHON_VERSION}-slim AS predict
# hadolint ignore=DL3013
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-compile -r /wheels/requirements-predict.txt \
    && pip install --no-cache-dir --no-compile --no-deps /wheels/*.whl \
    && cd "$(python -c 'import openvino; print(openvino.__path__[0])')" \
    && rm -r include cmake libs/cache.json libs/*_gpu_plugin* libs/*_npu_plugin* libs/*_frontend.* \
    && useradd --create-home --uid 1000 mtseg
USER 1000:1000
ENV HOME=/tmp
WORKDIR /work
ENTRYPOINT ["mtseg"]
CMD ["--help"]

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

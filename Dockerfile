# One file, four images: operator, agent, trainer, model-server (`--target NAME`; `python3 hack/images build` does it).
# Dependencies come from the hashed locks in requirements/ and change seldom: they are the early layers, and pip's cache
# outlives them (torch need not come again for a change of another package). The project's own wheel is the last layer.
ARG BASE_IMAGE=python:3.11-slim-bookworm

# --- builder: has pip; nothing of it but /opt/venv and /opt/project reaches an image ---
FROM ${BASE_IMAGE} AS builder
# Set by whoever builds behind a mirror; empty: pip's defaults. Behind a proxy with an authority of its own, `--secret
# id=certificates,src=BUNDLE --build-arg PIP_CERT=/run/secrets/certificates` tells pip whom to trust, and stays out of
# the image.
ARG PIP_INDEX_URL
ARG PIP_CERT
ENV PIP_INDEX_URL=${PIP_INDEX_URL} PIP_CERT=${PIP_CERT} \
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements/build.lock /build/
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=certificates \
    python3 -m venv /opt/build \
 && /opt/build/bin/pip install --quiet --require-hashes --no-deps -r /build/build.lock \
 && python3 -m venv --without-pip /opt/venv

# --- one virtual environment per image ---
FROM builder AS operator-venv
COPY requirements/operator.lock hack/images/install_locked.py /build/
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=certificates \
    /opt/build/bin/python /build/install_locked.py /build/operator.lock

FROM builder AS agent-venv
COPY requirements/agent.lock hack/images/install_locked.py /build/
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=certificates \
    /opt/build/bin/python /build/install_locked.py /build/agent.lock

FROM builder AS trainer-venv
# An index of other builds of torch (CPU only, or another CUDA); empty: the build that the lock pins.
ARG TORCH_INDEX
COPY requirements/trainer.lock hack/images/install_locked.py /build/
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=certificates \
    /opt/build/bin/python /build/install_locked.py /build/trainer.lock --torch-index "${TORCH_INDEX}"

# Minutes of compiling, so on its own. Not tuned to the machine that builds, but to any x86-64 of the last ten years;
# without OpenMP the image needs no library beyond the base's own.
FROM builder AS llama-wheel
RUN apt-get update -q && apt-get install -qy --no-install-recommends cmake g++ ninja-build \
 && rm -rf /var/lib/apt/lists/*
COPY requirements/llama-cpp-python.lock /build/
ARG LLAMA_CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON -DGGML_OPENMP=OFF -DLLAVA_BUILD=OFF"
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=certificates \
    CMAKE_ARGS="${LLAMA_CMAKE_ARGS}" /opt/build/bin/pip wheel --no-deps --require-hashes \
      --wheel-dir /build/wheels --requirement /build/llama-cpp-python.lock

FROM builder AS model-server-venv
COPY requirements/model-server.lock hack/images/install_locked.py /build/
COPY --from=llama-wheel /build/wheels /build/wheels
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=certificates \
    /opt/build/bin/python /build/install_locked.py /build/model-server.lock --wheels /build/wheels

# --- the project itself ---
FROM builder AS project
WORKDIR /build/source
COPY pyproject.toml LICENSE ./
COPY agent_image agent_image
COPY model_server model_server
COPY operator operator
# The README is but metadata of the wheel: an edit of it should not change an image.
RUN touch README.md \
 && /opt/build/bin/pip wheel --quiet --no-deps --no-build-isolation --wheel-dir /build/dist . \
 && /opt/build/bin/pip --python /opt/venv/bin/python install --quiet --no-deps --no-compile --no-index \
      --prefix /opt/project /build/dist/*.whl \
 && python3 -m compileall -q --invalidation-mode unchecked-hash -s /opt/project -p /opt/venv /opt/project

# --- images ---
FROM ${BASE_IMAGE} AS runtime
# Every directory but /tmp and the mounts is read-only when it runs, and the user has no home of its own. It is not
# in /etc/passwd either: kopf and torch ask for its name, and get it from the environment.
ENV PATH=/opt/venv/bin:$PATH HOME=/tmp USER=evolving PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /

FROM runtime AS operator
COPY --from=operator-venv /opt/venv /opt/venv
COPY --from=project /opt/project /opt/venv
ENTRYPOINT ["evolving-operator"]
CMD ["run"]

FROM runtime AS agent
COPY --from=agent-venv /opt/venv /opt/venv
COPY --from=project /opt/project /opt/venv
ENTRYPOINT ["evolving-agent"]
CMD ["serve"]

FROM runtime AS trainer
COPY --from=trainer-venv /opt/venv /opt/venv
COPY --from=project /opt/project /opt/venv
ENTRYPOINT ["evolving-agent"]
CMD ["finetune"]

FROM runtime AS model-server
COPY --from=model-server-venv /opt/venv /opt/venv
COPY --from=project /opt/project /opt/venv
ENTRYPOINT ["evolving-model-server"]

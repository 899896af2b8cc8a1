FROM python:3.12-slim

# cpu or gpu decides which FAISS is installed: never both, they overwrite each other.
ARG EXTRAS="cpu,offline,postgres"
# Optional: an index with CPU builds of torch, which make the image several GB smaller. Leave it empty for the GPU.
ARG PIP_EXTRA_INDEX_URL=""

ENV PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    CLICKLOOP_DATA_DIR=/data \
    HF_HOME=/data/huggingface

# The number is fixed because api and worker, two images, share the files of one volume.
RUN useradd --uid 10001 --create-home clickloop \
    && install --directory --owner=clickloop --group=clickloop /data

WORKDIR /app

# The dependencies alone, from empty packages: a layer of several GB that survives every change of the code.
COPY pyproject.toml constraints.txt ./
RUN touch README.md LICENSE __init__.py \
    && mkdir plugin retriever trainer \
    && pip install -c constraints.txt ".[${EXTRAS}]" \
    && rm -rf build clickloop.egg-info

COPY README.md LICENSE __init__.py ./
COPY plugin plugin
COPY retriever retriever
COPY trainer trainer
RUN pip install --no-deps --force-reinstall . && rm -rf build clickloop.egg-info

USER clickloop
# Else /app itself would be the place that Python imports from.
WORKDIR /home/clickloop
VOLUME /data
EXPOSE 8000

HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/health', timeout=4)"]

CMD ["clickloop", "serve", "--host", "0.0.0.0", "--port", "8000"]

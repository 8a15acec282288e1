# Image of the services in compose.yaml: code location, UI, daemon and MLflow. FAISS=gpu takes the CUDA build of Faiss.
FROM python:3.11.13-slim-bookworm AS build
ARG FAISS=cpu
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE quiet.pth ./
COPY ms_assets ms_assets
RUN python -m venv /opt/ms_assets \
    && /opt/ms_assets/bin/python -m pip install --no-cache-dir --constraint constraints.txt ".[${FAISS},postgres,s3]" \
    && cp quiet.pth "$(/opt/ms_assets/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

FROM python:3.11.13-slim-bookworm
# `implicit` is linked with GCC's OpenMP; its version is that of the image's Debian.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 ms_assets \
    && install --directory --owner ms_assets --group ms_assets /data
COPY --from=build /opt/ms_assets /opt/ms_assets
WORKDIR /app
COPY dagster.yaml deploy/workspace.yaml ./
ENV PATH=/opt/ms_assets/bin:$PATH DAGSTER_HOME=/app MS_ASSETS_HOME=/data
USER 1000
VOLUME /data
EXPOSE 3000
CMD ["dagster-webserver", "--host", "0.0.0.0", "--port", "3000", "--workspace", "workspace.yaml"]

# The command line with all extras, on the CPU: docker build --tag nfilter .
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY nfilter nfilter
COPY plugins plugins
COPY prompts prompts

# torch comes from the index of its CPU builds, everything else from PyPI, at the versions of the lock.
RUN pip install --constraint constraints.txt --upgrade pip \
 && pip install --constraint constraints.txt --build-constraint constraints.txt \
        --extra-index-url https://download.pytorch.org/whl/cpu '.[all]' \
 && useradd --create-home --home-dir /cache --uid 10001 nfilter \
 && mkdir /data && chown nfilter /data && chmod 0777 /cache

# Any user may run it (docker run --user): caches are in /cache, recipes and runs in /data.
ENV HOME=/cache
USER nfilter
WORKDIR /data
ENTRYPOINT ["nfilter"]

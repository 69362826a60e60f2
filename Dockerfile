# The jetbatch binary, static, on nothing. Every RUN is in exec form and no step needs a shell, so that a build image
# made of the Go distribution alone does as well as the official one (.ci/run builds with such an image where there is no network).
ARG GOLANG_IMAGE=golang:1.26
# For the stage "python" alone: an image with Python, numpy, msgpack and whatever the data sets import.
ARG PYTHON_IMAGE=scratch

FROM ${GOLANG_IMAGE} AS build
# By which what the classic builder leaves of this stage can be found and removed.
LABEL jetbatch.stage=build
ENV CGO_ENABLED=0
WORKDIR /rootfs/store
WORKDIR /rootfs/tmp
WORKDIR /src
COPY go.mod go.sum ./
RUN ["go", "mod", "download"]
COPY . .
RUN ["go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", "/out/jetbatch", "./cmd/jetbatch"]

# For coordinators and workers with data sets in Python, and for trainers (deploy/compose.python.yml):
#
#   docker build --target python --build-arg PYTHON_IMAGE=mine -t jetbatch:python .
#
# It only copies, so that it costs nothing where the classic builder makes it on the way to the stage below.
FROM ${PYTHON_IMAGE} AS python
LABEL jetbatch.stage=python
COPY --from=build /out/jetbatch /jetbatch
COPY python/jetbatch /opt/jetbatch/jetbatch
ENV PYTHONPATH=/opt/jetbatch PYTHONDONTWRITEBYTECODE=1 JETBATCH_BINARY=/jetbatch
USER 65532:65532
ENTRYPOINT ["/jetbatch"]
HEALTHCHECK --interval=10s --timeout=8s --start-period=20s --retries=3 CMD ["/jetbatch", "health"]

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
# /tmp, for the demo and for "up"; /store, which docker-compose.yml takes the owner of NATS's volume from.
COPY --from=build --chown=65532:65532 /rootfs/ /
COPY --from=build /out/jetbatch /jetbatch
USER 65532:65532
ENTRYPOINT ["/jetbatch"]
# JETBATCH_ROLE=worker (or coordinator) and JETBATCH_HERE=true make it ask whether this very container answers.
HEALTHCHECK --interval=10s --timeout=8s --start-period=20s --retries=3 CMD ["/jetbatch", "health"]

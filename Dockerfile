# The jetbatch binary, static, on nothing. Every RUN is in exec form and no step needs a shell, so that a build image
# made of the Go distribution alone does as well as the official one (.ci/run builds with such an image where there is no network).
ARG GOLANG_IMAGE=golang:1.26

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

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
# /tmp, for the demo and for "up"; /store, which docker-compose.yml takes the owner of NATS's volume from.
COPY --from=build --chown=65532:65532 /rootfs/ /
COPY --from=build /out/jetbatch /jetbatch
USER 65532:65532
ENTRYPOINT ["/jetbatch"]
# JETBATCH_ROLE=worker (or coordinator) and JETBATCH_HERE=true make it ask whether this very container answers.
HEALTHCHECK --interval=10s --timeout=8s --start-period=20s --retries=3 CMD ["/jetbatch", "health"]

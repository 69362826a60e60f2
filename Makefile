# make help
GO ?= go
COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)
WORKERS ?= 4

.DEFAULT_GOAL := help
.PHONY: help build test race python lint fuzz demo bench image compose-up compose-train compose-roll compose-down manifests chaos mutants ci

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## bin/jetbatch
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/jetbatch ./cmd/jetbatch

test: ## all tests
	$(GO) test ./...

race: ## all tests with the race detector
	.ci/run race

python: ## types and tests of the Python package, and its wheel
	.ci/run python

lint: ## formatting, vet, staticcheck, and golangci-lint where it is installed
	.ci/run lint

fuzz: ## every fuzz target for some seconds
	.ci/run fuzz

demo: ## the demo
	$(GO) run ./cmd/jetbatch demo

bench: ## every figure beside its floor; minutes, on a machine of its own
	$(GO) run ./bench

image: ## docker image jetbatch:local
	docker build -t jetbatch:local .

compose-up: ## the service in containers, of the image JETBATCH_IMAGE or that of "make image"; WORKERS=4
	$(COMPOSE) up --scale worker=$(WORKERS)

compose-train: ## a trainer that verifies what it takes from it
	$(COMPOSE) run --rm trainer

compose-roll: ## replace all workers and coordinators, one by one, under load
	deploy/roll

compose-down: ## remove the containers and what NATS stored
	$(COMPOSE) down --volumes --remove-orphans

manifests: ## check the manifests for Kubernetes
	.ci/run kubernetes

chaos: ## every fault at full size, figures as JSON lines; half an hour, on a machine of its own
	$(GO) test -v -timeout 120m -parallel 6 ./internal/chaos -args -chaos.full
	$(GO) test -v -timeout 60m ./coordinator/internal/model -args -model.full

mutants: ## the roles with one safeguard removed at a time, which tests must notice; half an hour
	$(GO) test -v -timeout 120m -run 'Test(Shell|Hostile)Mutants$$' ./internal/mutant -args -mutants.shell

ci: ## all that CI does
	.ci/run

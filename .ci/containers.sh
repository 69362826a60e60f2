# Sourced by .ci/run: docker-compose.yml and what is laid over it, in images that are pulled, or else made of what this
# machine has. shellcheck shell=bash

dc=() # the compose command, where containers can be run

# image makes sure that there is an image of that name: one that is here, a pulled one, or one that the function
# given builds out of what this machine has, and that goes again at the end.
image() {
  local name=$1 build=$2
  if docker image inspect "$name" >/dev/null 2>&1; then
    echo "$name is here"
  elif timeout 120 docker pull -q "$name" 2>/dev/null; then
    echo "$name is pulled"
  else
    echo "$name cannot be pulled: building one in its place"
    cleanups+=("docker image rm -f $name >/dev/null")
    "$build" "$name"
  fi
}

# standin_golang has the Go distribution, the modules that go.mod names, certificates, and no shell.
standin_golang() {
  local root=$tmp/golang goroot cache
  goroot=$(go env GOROOT)
  cache=$(go env GOMODCACHE)/cache/download
  mkdir -p "$root"/{usr/local/go/pkg,etc/ssl/certs,tmp,go}
  cp -rL "$goroot"/{bin,src,lib,go.env,VERSION} "$root/usr/local/go/"
  rm -rf "$root/usr/local/go/src/cmd" # built already, in pkg/tool
  cp -rL "$goroot"/pkg/{include,tool} "$root/usr/local/go/pkg/"
  cp -L /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/" 2>/dev/null || : >"$root/etc/ssl/certs/ca-certificates.crt"
  GOMODCACHE=$tmp/modules GOFLAGS=-modcacherw GOPROXY="file://$cache,$(go env GOPROXY)" go mod download
  mv "$tmp/modules/cache/download" "$root/proxy"
  rm -rf "$tmp/modules"
  cat >"$root/Dockerfile" <<'DOCKERFILE'
FROM scratch
COPY . /
ENV PATH=/usr/local/go/bin:/usr/bin:/bin GOPATH=/go HOME=/tmp GOTOOLCHAIN=local GOPROXY=file:///proxy GOSUMDB=off
WORKDIR /go
DOCKERFILE
  docker build -q -t "$1" "$root"
  rm -rf "$root"
}

# from_scratch makes an image of the programs in a folder's bin, and a wget for the health check.
from_scratch() {
  CGO_ENABLED=0 go build -o "$2/bin/wget" ./.ci/standin/wget
  printf 'FROM scratch\nCOPY bin /usr/local/bin\nENV PATH=/usr/local/bin\n%s\n' "$3" >"$2/Dockerfile"
  docker build -q -t "$1" "$2"
}

# standin_nats has the server of go.mod's version and a wget for the health check.
standin_nats() {
  local root=$tmp/nats version
  version=$(go list -m -f '{{.Version}}' github.com/nats-io/nats-server/v2)
  mkdir -p "$root/bin" "$root/data"
  GOBIN=$root/bin GOFLAGS=-buildvcs=false CGO_ENABLED=0 go install "github.com/nats-io/nats-server/v2@$version"
  from_scratch "$1" "$root" 'CMD ["nats-server"]'
}

# standin_store has the S3 server that tests use, and a wget for the health check.
standin_store() {
  local root=$tmp/store
  mkdir -p "$root/bin"
  (cd onda/remote/servertest && CGO_ENABLED=0 go build -buildvcs=false -o "$root/bin/" github.com/versity/versitygw/cmd/versitygw)
  from_scratch "$1" "$root" 'ENTRYPOINT ["versitygw"]'
}

# standin_debian has Debian packages that are installed here with all that they need, and the commands of a shell. It
# fails where the packages are not installed.
standin_debian() {
  local name=$1 root=$tmp/debian packages
  shift
  dpkg -s "$@" >/dev/null 2>&1 || return 1
  packages=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
    --no-enhances --installed "$@" bash coreutils diffutils grep libc-bin base-files | grep '^[a-z]' | sort -u)
  mkdir -p "$root"/{etc,usr/bin,usr/sbin,usr/lib,usr/lib64}
  cp -P /bin /sbin /lib /lib64 "$root/" # links into usr
  # shellcheck disable=SC2086 # words
  { dpkg -L $packages; find /etc/alternatives; find /usr/bin /usr/lib -maxdepth 3 -lname '/etc/alternatives/*'; } |
    sed -n 's,^/,,; /^usr\/share\/\(doc\|man\|locale\)\//d; /[^.]/p' | sort -u |
    (cd /; while read -r file; do [[ ! -e $file && ! -L $file ]] || printf '%s\n' "$file"; done) |
    tar -C / --no-recursion -cf - -T - | tar -C "$root" --keep-directory-symlink -xf -
  mkdir -p -m 1777 "$root/tmp"
  ldconfig -r "$root"
  printf 'FROM scratch\nCOPY . /\nENV PATH=/usr/local/go/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp\nCMD ["bash"]\n' >"$root/Dockerfile"
  docker build -q -t "$name" "$root"
  rm -rf "$root"
}

# containers makes ready whatever containers need, once, and sets dc; or it says why there can be none.
containers() {
  ((${#dc[@]} == 0)) || return 0
  if ! docker info >/dev/null 2>&1; then
    section "containers: SKIPPED, there is no Docker engine"
    return
  fi
  local command=(docker compose)
  "${command[@]}" version >/dev/null 2>&1 || command=(docker-compose)
  if ! "${command[@]}" version >/dev/null 2>&1; then
    section "containers: SKIPPED, there is neither docker compose nor docker-compose"
    return
  fi
  section "container images"
  image golang:1.26 standin_golang
  image nats:2.15-alpine standin_nats

  export COMPOSE_PROJECT_NAME=jetbatch-ci-$$ JETBATCH_IMAGE=jetbatch:ci-$$ JETBATCH_NATS_LISTEN=127.0.0.1:0 JETBATCH_BATCHES=3000
  cleanups+=("docker image prune -f --filter label=jetbatch.stage >/dev/null")
  cleanups+=("docker image rm -f $JETBATCH_IMAGE >/dev/null 2>&1")
  cleanups+=("${command[*]} --profile trainer down --volumes --remove-orphans --timeout 3 >/dev/null 2>&1")
  if [[ -d $recordings ]]; then
    export JETBATCH_DATA_FOLDER=$recordings
  else
    go run ./cmd/jetbatch demo --keep "$tmp/data" --batches 8 >/dev/null
    chmod -R a+rX "$tmp"
    export JETBATCH_DATA_FOLDER=$tmp/data
  fi
  docker build -q -t "$JETBATCH_IMAGE" .
  dc=("${command[@]}")
}

# untouched fails if Compose builds anything: over an image of a user's own, or in the place of one that is not there.
untouched() {
  local mine=jetbatch:mine-$$ missing=jetbatch:misspelt-$$ before
  mkdir "$tmp/mine"
  printf 'FROM %s\nLABEL jetbatch.mine=yes\n' "$JETBATCH_IMAGE" >"$tmp/mine/Dockerfile"
  cleanups+=("docker image rm -f $mine >/dev/null 2>&1")
  before=$(docker build -q -t "$mine" "$tmp/mine")
  JETBATCH_IMAGE=$mine "${dc[@]}" up --detach --build --scale worker=1 coordinator worker
  [[ $(docker inspect -f '{{.Image}}' "$(JETBATCH_IMAGE=$mine "${dc[@]}" ps -q worker)") == "$before" ]] || fail "the worker runs another image than the user's"
  [[ $(docker image inspect -f '{{.Id}} {{.Config.Labels}}' "$mine") == "$before map[jetbatch.mine:yes"* ]] || fail "the user's image was built over"
  "${dc[@]}" down --volumes --timeout 3
  if JETBATCH_IMAGE=$missing "${dc[@]}" up --detach --build coordinator worker </dev/null >"$tmp/misspelt.log" 2>&1; then
    fail "a misspelt image was made up: $(cat "$tmp/misspelt.log")"
  fi
  grep -q "$missing\|jetbatch, repository does not exist\|pull access denied for jetbatch\|lookup .*docker" "$tmp/misspelt.log" || fail "not what is missing: $(cat "$tmp/misspelt.log")"
  ! docker image inspect "$missing" >/dev/null 2>&1 || fail "a misspelt image was built"
  "${dc[@]}" down --volumes --timeout 3
}

# compose_pages runs what README.md and docs say with Docker, with "docker compose" where only docker-compose is here, one
# page after the other: all of them name their containers and images alike.
compose_pages() {
  containers
  ((${#dc[@]})) || return 0
  if [[ ${dc[0]} == docker-compose ]]; then
    mkdir -p "$tmp/pages"
    printf '#!/bin/sh\nif [ "$1" = compose ]; then shift; exec docker-compose "$@"; fi\nexec "%s" "$@"\n' "$(command -v docker)" >"$tmp/pages/docker"
    chmod +x "$tmp/pages/docker"
  fi
  docker image inspect jetbatch:local >/dev/null 2>&1 || cleanups+=("docker image rm -f jetbatch:local >/dev/null 2>&1")
  (
    unset JETBATCH_IMAGE JETBATCH_DATA_FOLDER JETBATCH_BATCHES
    pages docker -parallel 1 -timeout 30m
  )
}

compose() {
  containers
  ((${#dc[@]})) || return 0
  section "containers: an image of one's own stays as it is, and a misspelt one is an error"
  untouched
  section "containers: NATS, a coordinator, four workers"
  "${dc[@]}" up --detach --no-build --scale worker=4 coordinator worker
  local workers
  workers=$("${dc[@]}" ps -q worker)
  [[ $(wc -l <<<"$workers") == 4 ]] || fail "there are not four workers: $workers"
  healthy "$("${dc[@]}" ps -q coordinator)" $workers
  "${dc[@]}" run --rm --no-deps -T coordinator status

  section "containers: a trainer that verifies, and a worker that is killed under way"
  local log=$tmp/trainer.log status=0
  "${dc[@]}" --profile trainer run --rm --no-deps -T -e JETBATCH_JSON=true -e JETBATCH_TRAIN_TIME=2ms trainer >"$tmp/trainer.json" 2>"$log" &
  local trainer=$!
  await "the trainer takes" more_than 0 "${dc[@]}"
  docker kill "$(head -n 1 <<<"$workers")" >/dev/null
  echo "killed one worker"
  wait "$trainer" || status=$?
  cat "$log" "$tmp/trainer.json"
  if [[ $status != 0 ]]; then
    "${dc[@]}" logs --tail 30 || true
    fail "the trainer exited with $status"
  fi
  grep -q '"identical":true' "$tmp/trainer.json" || fail "the trainer's batches differ from the reference"
  "${dc[@]}" run --rm --no-deps -T coordinator status

  section "containers: four ranks of one trainer, each of which verifies"
  four_ranks "${dc[@]}"

  section "containers: all of them confined"
  confined "${dc[@]}"

  section "containers: workers and coordinator replaced while a trainer verifies"
  "${dc[@]}" up --detach --no-build --no-recreate --scale worker=2 coordinator worker
  load "${dc[@]}"
  deploy/roll
  unload

  section "containers: the same with a user's own data set, examples/customdataset"
  local own=$JETBATCH_IMAGE-own
  mkdir "$tmp/own"
  cp examples/customdataset/Dockerfile "$tmp/own/"
  CGO_ENABLED=0 go build -o "$tmp/own/jetbatch" ./examples/customdataset
  cleanups=("docker image rm -f $own >/dev/null 2>&1" "${cleanups[@]}") # after its containers
  docker build -q -t "$own" --build-arg "BASE=$JETBATCH_IMAGE" "$tmp/own"
  JETBATCH_IMAGE=$own "${dc[@]}" up --detach --no-build --scale worker=2 coordinator worker
  JETBATCH_IMAGE=$own "${dc[@]}" --profile trainer run --rm --no-deps -T trainer \
    take --name own --dataset waves --params '{"waves":10,"size":1024,"epochs":5}' --batches 0 --verify --json | tee "$tmp/own.json"
  grep -q '"batches":50,.*"identical":true,"end":"data"' "$tmp/own.json" || fail "not all batches of the own data set came"

  section "containers: a worker of 256 MB keeps no more batches of 5.8 MB than it has room for"
  JETBATCH_IMAGE=$own JETBATCH_WORKER_MEMORY=256m "${dc[@]}" up --detach --no-build --scale worker=1 coordinator worker
  JETBATCH_IMAGE=$own "${dc[@]}" --profile trainer run --rm --no-deps -T trainer take --name big --dataset waves \
    --params '{"waves":10,"size":1450000,"epochs":10}' --window 64 --train-time 50ms --batches 100 --json | tee "$tmp/big.json"
  grep -q '"batches":100,' "$tmp/big.json" || fail "not all large batches came"
  [[ $(docker inspect -f '{{.State.OOMKilled}} {{.RestartCount}}' "$("${dc[@]}" ps -q worker)") == "false 0" ]] || fail "the worker was killed for want of memory"
  "${dc[@]}" --profile trainer down --volumes --timeout 3

  section "containers: recordings in a bucket of an S3 server"
  bucket

  with_python

  section "containers: TLS, and a key for each role"
  go run ./cmd/jetbatch keys "$tmp/keys" >/dev/null
  chmod -R a+rX "$tmp/keys" # the containers' user is another
  export JETBATCH_KEYS=$tmp/keys
  local secure=("${dc[@]}" -f docker-compose.yml -f deploy/compose.secure.yml)
  cleanups+=("${secure[*]} --profile trainer --profile operator --profile ranks down --volumes --remove-orphans --timeout 3 >/dev/null 2>&1")
  "${secure[@]}" up --detach --no-build --scale worker=2 coordinator worker
  confined "${secure[@]}"
  "${secure[@]}" --profile trainer run --rm --no-deps -T -e JETBATCH_JSON=true -e JETBATCH_BATCHES=500 trainer | tee "$tmp/secure.json"
  grep -q '"batches":500,.*"identical":true,"end":"batches"' "$tmp/secure.json" || fail "not all batches came by TLS"
  "${secure[@]}" --profile operator run --rm --no-deps -T operator
  four_ranks "${secure[@]}"
  "${secure[@]}" --profile trainer --profile operator --profile ranks down --volumes --timeout 3

  section "containers: three NATS servers, one of which dies while a trainer verifies"
  local cluster=("${dc[@]}" -f docker-compose.yml -f deploy/compose.cluster.yml)
  cleanups+=("${cluster[*]} --profile trainer down --volumes --remove-orphans --timeout 3 >/dev/null 2>&1")
  "${cluster[@]}" up --detach --no-build --scale worker=2 coordinator worker
  confined "${cluster[@]}"
  load "${cluster[@]}"
  local before
  before=$(taken "${cluster[@]}")
  docker kill "$("${cluster[@]}" ps -q nats)" >/dev/null
  echo "killed the first server after $before batches"
  await "the trainer goes on" more_than "$((before + 1000))" "${cluster[@]}"
  await "check says that a server is away" away "${cluster[@]}"
  grep -A 1 'is away' "$tmp/check.txt"
  unload 60000 # elections, and, if the results were on that server, a generation begun again
  "${cluster[@]}" run --rm --no-deps -T coordinator status
  "${cluster[@]}" --profile trainer down --volumes --timeout 3
}

# four_ranks runs the profile "ranks" by a command of Compose, and fails unless each rank took every batch, and each was
# that of the reference.
four_ranks() {
  local ids id ranks=("$@" --profile ranks)
  "${ranks[@]}" up --detach --no-build --no-recreate rank-0 rank-1 rank-2 rank-3
  ids=$("${ranks[@]}" ps --all --quiet rank-0 rank-1 rank-2 rank-3)
  [[ $(wc -l <<<"$ids") == 4 ]] || fail "there are not four ranks"
  for id in $ids; do
    [[ $(docker wait "$id") == 0 ]] || { docker logs --tail 20 "$id"; fail "a rank failed"; }
    docker logs "$id" 2>&1 | grep -a 'batches and states are identical to the reference' ||
      fail "a rank took other batches"
  done
  confined "${ranks[@]}"
  docker rm --force $ids >/dev/null
}

# bucket trains on recordings that the profile store serves, and fails unless the batches are those of a plain loop.
bucket() {
  if ! (cd onda/remote/servertest && go mod download); then
    echo "skipped: the modules of versitygw are neither here nor to be had"
    return
  fi
  image versity/versitygw:v1.8.0 standin_store
  local stored=("${dc[@]}" --profile store)
  go run ./cmd/jetbatch demo --keep "$tmp/far" --batches 8 >/dev/null
  chmod -R a+rX "$tmp"
  cleanups+=("${stored[*]} --profile trainer down --volumes --remove-orphans --timeout 3 >/dev/null 2>&1")
  (
    export JETBATCH_DATA_FOLDER=$tmp/far
    export AWS_ENDPOINT_URL_S3=http://store:7070 AWS_ACCESS_KEY_ID=ci AWS_SECRET_ACCESS_KEY=of-no-use-elsewhere
    "${stored[@]}" up --detach --no-build --scale worker=2 coordinator worker store
    healthy "$("${stored[@]}" ps -q store)"
    confined "${stored[@]}"
    "${stored[@]}" --profile trainer run --rm --no-deps -T trainer take --name far --dataset onda \
      --params '{"dir":"s3://recordings"}' --batches 100 --verify --json | tee "$tmp/bucket.json"
    "${stored[@]}" --profile trainer down --volumes --timeout 3
  )
  grep -q '"batches":100,.*"identical":true' "$tmp/bucket.json" || fail "not all batches of the bucket came"
}

# with_python runs coordinator and workers in the Dockerfile's stage with Python.
with_python() {
  packages
  section "containers: a data set in Python, in the stage of the Dockerfile that has Python"
  local base=$JETBATCH_IMAGE-debian
  cleanups=("docker image rm -f $JETBATCH_IMAGE-python $base >/dev/null 2>&1" "${cleanups[@]}") # after its containers
  if ! standin_debian "$base" python3-numpy python3-msgpack; then
    echo "SKIPPED: python3-numpy and python3-msgpack are not installed here, so there is no image of them"
    return
  fi
  docker build -q -t "$JETBATCH_IMAGE-python" --target python --build-arg "PYTHON_IMAGE=$base" .
  mkdir "$tmp/tokens"
  head -c 1000000 /dev/urandom >"$tmp/tokens/tokens.bin"
  chmod -R a+rX "$tmp"
  local -x JETBATCH_PYTHON_STAGE=$JETBATCH_IMAGE-python JETBATCH_DATA_FOLDER=$tmp/tokens
  local python=("${dc[@]}" -f docker-compose.yml -f deploy/compose.python.yml)
  "${python[@]}" up --detach --no-build --scale worker=2 coordinator worker
  healthy "$("${python[@]}" ps -q coordinator)" $("${python[@]}" ps -q worker)
  confined "${python[@]}"
  "${python[@]}" --profile trainer run --rm --no-deps -T trainer \
    take --name python --dataset tokens --params '{"file":"/data/tokens.bin"}' --batches 100 --json | tee "$tmp/python.json"
  grep -q '"batches":100,.*"end":"batches"' "$tmp/python.json" || fail "not all batches of the data set in Python came"
  "${python[@]}" --profile trainer down --volumes --timeout 3
}

# confined fails unless every container of a project runs without rights.
confined() {
  local line
  while read -r line; do
    echo "$line"
    [[ $line == *" 6553"[24]":6553"[24]" read-only=true dropped=[ALL] [no-new-privileges:true] memory="[1-9]* ]] || fail "not confined"
  done < <(docker inspect -f '{{.Name}} {{.Config.User}} read-only={{.HostConfig.ReadonlyRootfs}} dropped={{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}} memory={{.HostConfig.Memory}}' $("$@" ps -q))
}

# load starts a trainer that verifies until unload.
load() {
  trainer=$COMPOSE_PROJECT_NAME-load
  "$@" --profile trainer run --rm --no-deps -T --name "$trainer" -e JETBATCH_JSON=true -e JETBATCH_TRAIN_TIME=2ms -e JETBATCH_BATCHES=1000000 \
    trainer >"$tmp/load.json" 2>"$tmp/load.log" &
  loading=$!
  await "the trainer takes" more_than 100 "$@"
}

# unload ends it and fails if a batch differed. It says how long the longest wait was, and whether that is more than it
# should be, by default the lease of a coordinator; a shared machine may be slower, so that fails nothing.
unload() {
  local longest most=${1:-3000}
  docker kill --signal TERM "$trainer" >/dev/null
  wait "$loading" || true # it was interrupted
  tail -n 3 "$tmp/load.log"
  cat "$tmp/load.json"
  grep -q '"identical":true,"end":"interrupted"' "$tmp/load.json" || fail "the trainer's batches differ from the reference, or it did not go on"
  longest=$(sed 's/.*"longest_wait_ms":\([0-9]*\).*/\1/' "$tmp/load.json")
  echo "the longest wait was $longest ms, of $most ms at most$( ((longest <= most)) || echo ": TOO LONG")"
}

# taken is how many batches the trainer has, or nothing while nobody knows.
taken() {
  "$@" run --rm --no-deps -T coordinator status --json 2>/dev/null | sed -n 's/.*"batcher":"train".*"taken":\([0-9]*\).*/\1/p'
}

more_than() {
  local most=$1 now
  shift
  now=$(taken "$@") && ((${now:-0} > most))
}

# away reports whether check says that a server of the cluster is away.
away() {
  "$@" run --rm --no-deps -T coordinator check >"$tmp/check.txt" 2>/dev/null
  grep -q '1 server of 3 is away' "$tmp/check.txt"
}

# healthy waits until Docker calls every container healthy.
healthy() {
  local id state deadline=$((SECONDS + 90))
  for id in "$@"; do
    while state=$(docker inspect -f '{{.State.Health.Status}}' "$id"); [[ $state != healthy ]]; do
      if ((SECONDS > deadline)); then
        docker logs --tail 20 "$id"
        fail "container $id is $state"
      fi
      sleep 1
    done
  done
  echo "all healthy"
}

# newuser is what a new user of Python does: in a clean container with Python and Go, "pip install ./python" of a clone,
# and the README's loop on the demo's data, which a Ctrl-C ends and which goes on with the very next batch.
newuser() {
  packages
  section "a new user of Python, in a clean container"
  if ! docker info >/dev/null 2>&1; then
    echo "SKIPPED: there is no Docker engine"
    return
  fi
  local name=jetbatch-newuser:ci-$$ began=$SECONDS
  cleanups+=("docker image rm -f $name >/dev/null 2>&1")
  if ! standin_debian "$name" python3-numpy python3-msgpack python3-pip python3-venv python3-setuptools python3-wheel; then
    echo "SKIPPED: Debian's python3 packages are not all installed here, so there is no image of them"
    return
  fi
  local dir=$tmp/newuser cache
  cache=$(go env GOMODCACHE)/cache/download
  mkdir -p "$dir/build"
  git archive --prefix clone/ HEAD | tar -C "$dir" -xf -
  sed -n '/^```python$/,/^```$/{/^```/d; p}' README.md >"$dir/readme.py"
  [[ -s $dir/readme.py ]] || fail "the README has no loop in Python"
  cp .ci/newuser/* "$dir/"
  chmod -R a+rX "$dir"
  # Nothing but Go and its modules comes from outside of the image. What was compiled before need not be once more.
  docker run --rm --network none --init -v "$dir:/home" -v "$(go env GOROOT):/usr/local/go:ro" -v "$cache:/proxy:ro" \
    -v "$(go env GOCACHE):/tmp/build" -w /home -e HOME=/root -e GOCACHE=/tmp/build -e GOPROXY=file:///proxy -e GOSUMDB=off \
    -e GOTOOLCHAIN=local -e GOFLAGS=-buildvcs=false "$name" bash -eu newuser.sh || fail "a new user would give up"
  docker run --rm -v "$dir:/home" "$name" rm -rf /home/venv /home/clone /home/data # it is root's
  echo "took $((SECONDS - began)) s"
}

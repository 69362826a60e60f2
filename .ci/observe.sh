# Sourced by .ci/run: what watches the service. Grafana itself is not started: its image may not be to be had, and no
# package has it. Every query of its dashboard is put to a Prometheus that scrapes a service at work, as Grafana puts it.
# shellcheck shell=bash

# prometheus_here finds Prometheus and promtool, or unpacks the distribution's package: installing it would start it.
prometheus_here() {
  local root=$tmp/prometheus-package
  prometheus=$(command -v prometheus) && promtool=$(command -v promtool) && return
  mkdir -p "$root"
  prometheus=$root/usr/bin/prometheus promtool=$root/usr/bin/promtool
  (
    cd "$root"
    apt-get download prometheus || { apt-get update && apt-get download prometheus; }
    dpkg -x prometheus_*.deb .
  ) >"$root/log" 2>&1
}

# stable_histograms reports whether the version, such as 3.9.1, knows the setting scrape_native_histograms. Those before, from
# 2.40 on, refuse it and take --enable-feature=native-histograms instead.
stable_histograms() { [[ $(printf '3.8\n%s\n' "$1" | sort -V | head -n 1) == 3.8 ]]; }

# standin_prometheus has the one that prometheus_here found.
standin_prometheus() {
  local root=$tmp/prometheus library arguments='["/bin/prometheus"]'
  mkdir -p "$root"/{bin,prometheus}
  cp -L "$prometheus" "$root/bin/prometheus"
  for library in $(ldd "$prometheus" | grep -o '/[^ ]*'); do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
  done
  stable_histograms "$prometheus_version" || arguments='["/bin/prometheus", "--enable-feature=native-histograms"]'
  cat >"$root/Dockerfile" <<DOCKERFILE
FROM scratch
COPY --chown=65534:65534 . /
WORKDIR /prometheus
USER 65534
ENTRYPOINT $arguments
DOCKERFILE
  docker build -q -t "$1" "$root"
  rm -rf "$root"
  # Its configuration is the one that it can read.
  cat >"$tmp/compose.standin.yml" <<COMPOSE
services:
  prometheus:
    volumes: ["$prometheus_config:/etc/prometheus/prometheus.yml:ro"]
COMPOSE
}

observe() {
  section "Prometheus: configuration and alert rules"
  local prometheus promtool prometheus_version prometheus_config=$tmp/prometheus.yml
  if ! prometheus_here; then
    echo "SKIPPED: there is no Prometheus here, and no package of it to be had: $(tail -n 1 "$tmp/prometheus-package/log")"
    return
  fi
  prometheus_version=$("$promtool" --version 2>&1 | sed -n 's/^promtool, version \([0-9.]*\).*/\1/p')
  cp deploy/observe/prometheus.yml "$prometheus_config"
  if ! stable_histograms "$prometheus_version"; then
    echo "Prometheus $prometheus_version does not know scrape_native_histograms (3.8 does), so it is not checked"
    sed -i '/scrape_native_histograms/d' "$prometheus_config"
  fi
  chmod a+rx "$tmp"
  chmod a+r "$prometheus_config"
  "$promtool" check config --syntax-only "$prometheus_config"
  "$promtool" check rules deploy/observe/alerts.yml
  "$promtool" test rules deploy/observe/alerts_test.yml

  containers
  ((${#dc[@]})) || return 0
  section "containers: Prometheus watches a service at work"
  local watched=("${dc[@]}" -f docker-compose.yml -f deploy/compose.observe.yml) url deadline
  image "$(sed -n 's/.*PROMETHEUS_IMAGE:-\(.*\)}/\1/p' deploy/compose.observe.yml)" standin_prometheus
  [[ ! -e $tmp/compose.standin.yml ]] || watched+=(-f "$tmp/compose.standin.yml")
  export JETBATCH_PROMETHEUS_LISTEN=127.0.0.1:0
  cleanups+=("${watched[*]} --profile trainer down --volumes --remove-orphans --timeout 3 >/dev/null 2>&1")
  "${watched[@]}" up --detach --no-build --scale worker=2 coordinator worker prometheus
  confined "${watched[@]}"
  load "${watched[@]}"
  # Panels of ranks show something where there are ranks; one will do.
  local rank=$COMPOSE_PROJECT_NAME-rank
  cleanups=("docker rm --force $rank >/dev/null 2>&1" "${cleanups[@]}")
  "${watched[@]}" --profile ranks run --detach --no-deps --name "$rank" rank-0 \
    take --name ranks --size 1 --data /data --train-time 20ms --batches 1000000
  url=http://$("${watched[@]}" port prometheus 9090)
  go build -o "$tmp/dashboard" ./.ci/dashboard
  deadline=$((SECONDS + 180)) # rates are of 20 s
  until "$tmp/dashboard" "$url" deploy/observe/grafana/dashboards/jetbatch.json >"$tmp/dashboard.log" 2>&1; do
    ((SECONDS < deadline)) || { cat "$tmp/dashboard.log"; fail "the dashboard does not show everything"; }
    sleep 2
  done
  cat "$tmp/dashboard.log"

  classic_histograms
  # One alert from end to end: no worker is left.
  docker kill $("${watched[@]}" ps -q worker) >/dev/null
  await "JetbatchNoWorkers is pending" alert_is JetbatchNoWorkers pending "$url"
  echo "with all workers killed, JetbatchNoWorkers is pending"
  "${watched[@]}" start worker
  await "JetbatchNoWorkers is inactive again" alert_is JetbatchNoWorkers inactive "$url"
  unload 30000 # there were no workers
  docker rm --force "$rank" >/dev/null
  "${watched[@]}" --profile trainer down --volumes --timeout 3
}

# classic_histograms has a Prometheus that does not scrape native histograms answer for the same dashboard.
classic_histograms() {
  sed '/scrape_native_histograms/d' deploy/observe/prometheus.yml >"$tmp/classic.yml"
  chmod a+r "$tmp/classic.yml"
  cat >"$tmp/compose.classic.yml" <<COMPOSE
services:
  prometheus:
    entrypoint: ["/bin/prometheus"]
    volumes: ["$tmp/classic.yml:/etc/prometheus/prometheus.yml:ro"]
COMPOSE
  "${watched[@]}" rm --stop --force prometheus
  docker volume rm "${COMPOSE_PROJECT_NAME}_prometheus-data"
  watched+=(-f "$tmp/compose.classic.yml")
  "${watched[@]}" up --detach --no-build --no-deps prometheus
  url=http://$("${watched[@]}" port prometheus 9090)
  deadline=$((SECONDS + 180))
  until "$tmp/dashboard" "$url" deploy/observe/grafana/dashboards/jetbatch.json >"$tmp/dashboard.log" 2>&1; do
    ((SECONDS < deadline)) || { cat "$tmp/dashboard.log"; fail "without native histograms the dashboard does not show everything"; }
    sleep 2
  done
  echo "without native histograms the dashboard shows everything, too"
}

# alert_is reports whether the dashboard's report has an alert in a state.
alert_is() { grep -Eq "^alert $1 +$2\$" < <("$tmp/dashboard" "$3" deploy/observe/grafana/dashboards/jetbatch.json 2>/dev/null); }

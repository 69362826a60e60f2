# What a new user types, in a folder with a clone of the repository; and checks of what comes of it.
python3 -m venv --system-site-packages venv # numpy and msgpack are Debian's
. venv/bin/activate
export PIP_NO_INDEX=1 PIP_NO_BUILD_ISOLATION=0 PIP_DISABLE_PIP_VERSION_CHECK=1 # no network; 0 means none, to pip
pip install -q ./clone/python
jetbatch version
jetbatch demo --keep data --batches 8 >/dev/null

cat before.py readme.py >train.py
BATCHES=40 python train.py >all # without a stop
rm -f checkpoint

python train.py >first &
trainer=$!
while [[ $(wc -l <first) -lt 12 ]]; do sleep 0.05; done
kill -INT $trainer
wait $trainer && exit 1 # a Ctrl-C ends it with a KeyboardInterrupt
echo "Ctrl-C after $(wc -l <first) batches"
BATCHES=$((40 - $(wc -l <first))) python train.py >second
cat first second | cmp - all
echo "the very next batch: $(wc -l <second) more, and all 40 are those of the run without a stop"
[[ -z $(ls /tmp | grep -v '^build$') ]] || { ls /tmp; exit 1; }

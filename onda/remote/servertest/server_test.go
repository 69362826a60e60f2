package servertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/jetbatch/jetbatch/dataset"
	"github.com/jetbatch/jetbatch/onda"
	"github.com/jetbatch/jetbatch/onda/remote"
	"github.com/jetbatch/jetbatch/schema"
)

const (
	bucket = "recordings"
	secret = "not-a-secret-outside-of-this-test"
)

// serve runs versitygw and gives this process's environment its address.
func serve(t *testing.T) *s3.Client {
	t.Helper()
	dir := t.TempDir()
	gateway := filepath.Join(dir, "versitygw")
	if out, err := exec.Command("go", "build", "-o", gateway, "github.com/versity/versitygw/cmd/versitygw").
		CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	store := filepath.Join(dir, "store")
	if err := os.Mkdir(store, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(gateway, "--port", addr, "--quiet", "posix", store)
	cmd.Env = append(os.Environ(), "ROOT_ACCESS_KEY=tester", "ROOT_SECRET_KEY="+secret)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(said.String())
		}
	})
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL_S3": "http://" + addr, "AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": secret,
		"AWS_REGION": "us-east-1", "AWS_CONFIG_FILE": filepath.Join(dir, "none"),
		"AWS_SHARED_CREDENTIALS_FILE": filepath.Join(dir, "none"), "AWS_EC2_METADATA_DISABLED": "true",
	} {
		t.Setenv(name, value)
	}
	cfg, err := config.LoadDefaultConfig(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	client := s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = true })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		_, err := client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: aws.String(bucket)})
		if err == nil {
			return client
		}
		if ctx.Err() != nil {
			t.Fatalf("%v\n%s", err, said.String())
		}
	}
}

func upload(t *testing.T, client *s3.Client, dir, prefix string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		_, err = client.PutObject(t.Context(), &s3.PutObjectInput{
			Bucket: aws.String(bucket), Key: aws.String(prefix + "/" + filepath.ToSlash(name)), Body: bytes.NewReader(data),
		})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func take(t *testing.T, p onda.Params) []schema.Batch {
	t.Helper()
	d, err := onda.New(t.Context(), p, onda.Config{Remote: remote.New(remote.Config{})})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Fingerprint(t.Context()); err != nil {
		t.Fatal(err)
	}
	loop := dataset.Sequential(d)
	var out []schema.Batch
	var state schema.State
	for range 5 {
		step, err := loop.Take(t.Context(), state)
		if err != nil {
			t.Fatal(err)
		}
		out, state = append(out, step.Batch), step.Next
	}
	return out
}

// A data set in a bucket gives the batches that it gives in a folder.
func TestVersityGateway(t *testing.T) {
	client := serve(t)
	dir, packed := t.TempDir(), filepath.Join(t.TempDir(), "packed")
	if err := onda.Synthesize(dir, onda.SynthConfig{Recordings: 4, Duration: 10 * time.Minute}); err != nil {
		t.Fatal(err)
	}
	if _, err := onda.Repack(t.Context(), onda.RepackConfig{From: dir, To: packed}); err != nil {
		t.Fatal(err)
	}
	upload(t, client, dir, "as it is/a+b")
	upload(t, client, packed, "packed")
	want := take(t, onda.Params{Dir: dir})
	cache := filepath.Join(t.TempDir(), "cache")
	for _, p := range []onda.Params{
		{Dir: "s3://recordings/as it is/a+b"}, {Dir: "S3://recordings/packed/"},
		{Dir: "s3://recordings/as it is/a+b", CacheDir: cache}, {Dir: "s3://recordings/packed", CacheDir: cache},
		{Dir: dir, Signals: "s3://recordings/packed/onda.signals.arrow", AllowURLs: []string{"s3://recordings"}},
	} {
		got := take(t, p)
		for i := range want {
			for j := range want[i] {
				if !bytes.Equal(want[i][j].Tensor.Data, got[i][j].Tensor.Data) {
					t.Errorf("%+v: batch %d differs", p, i)
				}
			}
		}
	}
	// A file that takes another's place is another, whatever is remembered of it.
	source := remote.New(remote.Config{})
	read := func() (string, error) {
		obj, err := source.Open(t.Context(), "s3://recordings/x")
		if err != nil {
			return "", err
		}
		data := make([]byte, obj.Size())
		_, err = obj.ReadAt(data, 0)
		return string(data), err
	}
	put := func(text string) {
		t.Helper()
		if _, err := client.PutObject(t.Context(), &s3.PutObjectInput{
			Bucket: aws.String(bucket), Key: aws.String("x"), Body: strings.NewReader(text),
		}); err != nil {
			t.Fatal(err)
		}
	}
	put("first")
	if got, err := read(); got != "first" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	put("other")
	if _, err := read(); err == nil {
		t.Error("a file was changed, and nobody says so")
	}
	if got, err := read(); got != "other" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := source.Open(t.Context(), "s3://recordings/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	// A wrong key is said, and no key is.
	t.Setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
	_, err := remote.New(remote.Config{Attempts: 1}).Open(t.Context(), "s3://recordings/x")
	if !errors.Is(err, fs.ErrPermission) || strings.Contains(fmt.Sprint(err), "wrong-secret") {
		t.Errorf("got %v", err)
	}
}

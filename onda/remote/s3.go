package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"github.com/jetbatch/jetbatch/onda"
)

// s3Store reads s3://bucket/key.
type s3Store struct {
	mu     sync.Mutex
	client *s3.Client
}

// connect makes the client when it is first needed, from what the SDK finds on
// this machine.
func (s *s3Store) connect(ctx context.Context) (*s3.Client, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.client != nil {
		return s.client, nil
	}
	cfg, err := config.LoadDefaultConfig(ctx,
		config.WithDefaultRegion("us-east-1"),
		config.WithHTTPClient(awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
			t.MaxIdleConnsPerHost, t.MaxIdleConns = connections, 0
			t.ResponseHeaderTimeout = partDeadline / 2
		})),
		// Stores that are not Amazon's have no checksums of ranges, and are not
		// found by names of buckets.
		config.WithResponseChecksumValidation(aws.ResponseChecksumValidationWhenRequired),
		config.WithRequestChecksumCalculation(aws.RequestChecksumCalculationWhenRequired))
	if err != nil {
		return nil, fmt.Errorf("settings for S3: %w", err)
	}
	s.client = s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = o.BaseEndpoint != nil })
	return s.client, nil
}

func split(url string) (bucket, key *string, err error) {
	b, k, _ := strings.Cut(strings.TrimPrefix(url, "s3://"), "/")
	if b == "" || k == "" {
		return nil, nil, fmt.Errorf("%w: %q is not s3://bucket/key", onda.ErrPath, url)
	}
	return &b, &k, nil
}

func (s *s3Store) stat(ctx context.Context, url string) (info, error) {
	client, err := s.connect(ctx)
	if err != nil {
		return info{}, err
	}
	bucket, key, err := split(url)
	if err != nil {
		return info{}, err
	}
	out, err := client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: bucket, Key: key})
	if err != nil {
		return info{}, s3Error(err)
	}
	return info{size: aws.ToInt64(out.ContentLength), at: aws.ToTime(out.LastModified), tag: aws.ToString(out.ETag)}, nil
}

func (s *s3Store) get(ctx context.Context, url string, in info, from, n int64) (io.ReadCloser, error) {
	client, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	bucket, key, err := split(url)
	if err != nil {
		return nil, err
	}
	input := &s3.GetObjectInput{
		Bucket: bucket, Key: key, Range: aws.String(fmt.Sprintf("bytes=%d-%d", from, from+n-1)),
	}
	if in.tag != "" {
		input.IfMatch = &in.tag
	}
	out, err := client.GetObject(ctx, input)
	if err != nil {
		return nil, s3Error(err)
	}
	if err := in.check(info{at: aws.ToTime(out.LastModified), tag: aws.ToString(out.ETag)}); err != nil {
		out.Body.Close()
		return nil, err
	}
	if aws.ToInt64(out.ContentLength) != n {
		out.Body.Close()
		return nil, fmt.Errorf("%w: %d bytes in place of %d", errChanged, aws.ToInt64(out.ContentLength), n)
	}
	return out.Body, nil
}

// s3Error sorts an answer by its status. That there was no connection may pass, too.
func s3Error(err error) error {
	var answer *awshttp.ResponseError
	if errors.As(err, &answer) {
		return statusError(answer.HTTPStatusCode(), notEOF(err).Error())
	}
	var failed interface{ ConnectionError() bool }
	if errors.As(err, &failed) && failed.ConnectionError() {
		return fmt.Errorf("%w: %w", errRetry, notEOF(err))
	}
	return notEOF(err)
}

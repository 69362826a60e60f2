// Command wget does what docker-compose.yml asks of the wget in the official nats image, in the image that .ci/run
// puts in its place where that cannot be pulled: it gets the last argument and fails unless the answer is 200.
package main

import (
	"fmt"
	"net/http"
	"os"
	"time"
)

func main() {
	client := http.Client{Timeout: 3 * time.Second}
	resp, err := client.Get(os.Args[len(os.Args)-1])
	if err == nil {
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s", resp.Status)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "wget:", err)
		os.Exit(1)
	}
}

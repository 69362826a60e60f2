package worker

import (
	"cmp"

	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// needs are what a worker cannot do without. That it shows up in lists of services is not among them.
var needs = topology.Needs{
	Publish: []string{
		wire.ResultPrefix + ".", wire.WorkerPrefix + ".", wire.ReportPrefix + ".",
		"$JS.ACK." + topology.JobsStream + ".", "$JS.API.CONSUMER.MSG.NEXT." + topology.JobsStream + ".",
		"$JS.API.STREAM.INFO." + topology.BucketStream, "$JS.API.STREAM.MSG.GET." + topology.BucketStream,
		"$JS.API.STREAM.MSG.GET." + topology.ResultsPrefix, "$JS.API.STREAM.PURGE." + topology.ResultsPrefix,
	},
	Subscribe: []string{wire.LanePrefix + ".", wire.UploadPrefix + "."},
}

// denied returns the last refusal of a subject that the worker needs.
func (w *Worker) denied() error {
	return cmp.Or(topology.Denied(w.nc, needs), topology.Denied(w.data, needs))
}

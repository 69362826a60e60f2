package worker

import (
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// needs are the subjects that a worker of that name cannot do without while it serves lanes. A subject that a requester
// chose is not among them, so that no requester can end a worker; nor are those of service listings.
func needs(worker string, lanes []*lane) topology.Needs {
	n := topology.Needs{
		Publish: []string{
			wire.WorkerPrefix + "." + worker,
			"$JS.API.STREAM.INFO." + topology.BucketStream, "$JS.API.STREAM.MSG.GET." + topology.BucketStream,
		},
		Subscribe: []string{wire.LanePrefix + ".*", wire.FollowPrefix + "." + worker, wire.UploadSubject(worker)},
	}
	for _, l := range lanes {
		n.Publish = append(n.Publish,
			l.next, "$JS.ACK."+topology.JobsStream+"."+topology.Consumer(l.batcher, l.gen)+".>",
			wire.ResultFilter(l.batcher, l.gen), wire.ReportPrefix+"."+l.batcher,
			"$JS.API.STREAM.MSG.GET."+l.store, "$JS.API.STREAM.PURGE."+l.store)
	}
	return n
}

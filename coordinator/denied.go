package coordinator

import (
	"github.com/jetbatch/jetbatch/internal/topology"
	"github.com/jetbatch/jetbatch/internal/wire"
)

// needs are the subjects that a coordinator cannot do without. Those of service listings are not among them.
var needs = topology.Needs{
	Publish: []string{
		wire.JobPrefix + ".", wire.ResultPrefix + ".", wire.LanePrefix + ".", wire.FollowPrefix + ".", wire.NoticePrefix + ".",
		wire.CoordinatorPrefix + ".", bucketPrefix,
		"$JS.API.STREAM.CREATE.", "$JS.API.STREAM.INFO.", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.PURGE.",
		"$JS.API.STREAM.DELETE." + topology.ResultsPrefix, "$JS.API.STREAM.MSG.GET.", "$JS.API.STREAM.MSG.DELETE." + topology.JobsStream,
		"$JS.API.STREAM.MSG.DELETE." + topology.ResultsPrefix,
		"$JS.API.DIRECT.GET." + topology.ResultsPrefix, "$JS.API.CONSUMER.CREATE." + topology.JobsStream,
		"$JS.API.CONSUMER.INFO." + topology.JobsStream, "$JS.API.CONSUMER.DELETE." + topology.JobsStream,
		"$JS.API.CONSUMER.NAMES." + topology.JobsStream,
	},
	Subscribe: []string{
		wire.WorkerPrefix + ".", wire.CoordinatorPrefix + ".", wire.ReaderPrefix + ".", wire.ReportPrefix + ".",
	},
}

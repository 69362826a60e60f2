package mutant_test

import "github.com/jetbatch/jetbatch/internal/mutant"

// guardedMutant is a mutant with the test that catches it, which is run first. A mutant that this test misses may be
// caught by another.
type guardedMutant struct {
	mutant.Mutant
	by string
}

// guarded is a mutant, and the test that catches it, of the package of its first edit.
func guarded(by, name string, edits ...mutant.Edit) guardedMutant {
	return guardedMutant{mutant.New(name, edits...), by}
}

// survivors are the mutants that no test catches, and the reason.
var survivors = map[string]string{}

// shell are the mutants of the roles' shells: of what surrounds the pure cores, which have searches of their own.
var shell = []guardedMutant{
	guarded("TestOpenThenStart", "two requests share a token", mutant.In("coordinator/actor.go",
		"	b.token++\n", "")),
	guarded("TestWindow", "a worker that comes is not counted", mutant.In("coordinator/actor.go",
		"	if b.fleet() != b.workers {", "	if false {"), mutant.In("coordinator/coordinator.go",
		"			b.countFleet()\n", "")),
	guarded("TestVerdictIsThereAlready", "a verdict that is stored already is an error", mutant.In("coordinator/effects.go",
		"	if errors.As(err, &api) && topology.IsDuplicate(", "	if errors.As(err, &api) && !topology.IsDuplicate(")),
	guarded("TestOutcome", "a conflict is a failure like any other", mutant.In("coordinator/effects.go",
		"return owner.Conflict, taken.owner, err.Error()", "return owner.Failed, taken.owner, err.Error()")),
	guarded("TestStartStalls", "Start may take for ever", mutant.In("coordinator/effects.go",
		"time.NewTimer(b.c.cfg.Stall)", "time.NewTimer(1000 * b.c.cfg.Stall)")),
	guarded("TestJobsAreConfirmed", "a job that was there is counted as missing", mutant.In("coordinator/feed.go",
		"ack.Error == nil && f.unconfirmed[seq].again", "f.unconfirmed[seq].again")),
	guarded("TestJobsAreConfirmed", "a job that is there already is a refusal", mutant.In("coordinator/feed.go",
		"ack.Error != nil && !topology.IsDuplicate(ack.Error.Code, ack.Error.Description)", "ack.Error != nil")),
	guarded("TestNoRoomForTheHeadsJob", "a job that was lost is not published again", mutant.In("coordinator/feed.go",
		"time.Since(p.at) > republishAfter", "time.Since(p.at) > 1000*republishAfter")),
	guarded("TestHalfMadeGeneration", "another store of the same name is the generation's", mutant.In("coordinator/store.go",
		"return string(genesis.Data) != string(wire.Genesis(gen)), nil", "return false, nil")),
	guarded("TestHalfMadeGeneration", "a consumer that is gone is not made again", mutant.In("coordinator/store.go",
		"err = topology.EnsureConsumer(ctx, b.c.js, token, b.name, e.Gen)", "err = ctx.Err()")),
	guarded("TestBounds", "a request of any size is read", mutant.In("coordinator/requests.go",
		"	if len(m.Data) > maxRequest {", "	if false {")),
	guarded("TestReaderOfAnotherWireVersion", "a reader of another wire version gets a seat", mutant.In("coordinator/requests.go",
		"fault == nil && req.Wire != wire.Version", "fault != nil")),
	guarded("TestTwoCoordinators", "a batcher is taken from an owner that may live", mutant.In("coordinator/requests.go",
		"	case leaseUnknown:\n		return nil, &waitError{rec.Owner}\n	}\n", "	}\n")),
	guarded("TestParametersAreComparedByMeaning", "parameters are compared as they are written", mutant.In("coordinator/requests.go",
		"spec.Version, spec.Params = k.Version, params", "spec.Version, _ = k.Version, params")),
	guarded("TestDeposedOwner", "a deposed owner is not told", mutant.In("coordinator/takeover.go",
		"		if rec.Owner != c.cfg.Name {", "		if false {")),
	guarded("TestCountTakeover", "owners that die are counted in spite of progress", mutant.In("coordinator/takeover.go",
		"before != nil && !before.Progressed(rec) && ", "before != nil && ")),
	guarded("TestDamagedRecordIsWrittenAnew", "a damaged record is not written anew", mutant.In("coordinator/takeover.go",
		"		b.hint(b.mend)\n", "")),
	guarded("TestLeases", "a lease that is renewed grows old", mutant.In("coordinator/leases.go",
		"case before == nil || before.revision != rev:", "case before == nil:")),
	guarded("TestLeases", "time in which nobody could look counts", mutant.In("coordinator/leases.go",
		"since := min(now.Sub(l.at), 2*beat)", "since := now.Sub(l.at)")),
	guarded("TestSaveAfterAnUnknownOutcome", "an owner writes a record that names another", mutant.In("coordinator/records.go",
		"	case stored.Owner != r.self:", "	case false:")),
	guarded("TestSweepSparesWhatIsThereAgain", "a record that is there again is swept", mutant.In("coordinator/records.go",
		"	if m.Header.Get(\"KV-Operation\") == \"\" {", "	if false {")),
	guarded("TestSaveAfterAnUnknownOutcome", "a record is deleted at any revision", mutant.In("coordinator/records.go",
		"r.kv.Delete(ctx, topology.BatcherKey(batcher), jetstream.LastRevision(rev))",
		"r.kv.Delete(ctx, topology.BatcherKey(batcher))")),
	guarded("TestDamagedRecordBesideOthers", "the generation of a damaged record is collected", mutant.In("coordinator/collector.go",
		"	case errors.As(err, &damaged):\n		return nil\n", "	case errors.As(err, &damaged):\n")),

	guarded("TestStoredBefore", "a record that was refused counts as stored", mutant.In("worker/commit.go",
		"a.verdict(x.job.lane.store); v == stored {", "a.verdict(x.job.lane.store); v == stored || v == exists {")),
	guarded("TestStoredByMyself", "the worker discards what its own attempt stored", mutant.In("worker/commit.go",
		"	case theirs.Attempt == mine.Attempt:", "	case false:")),
	guarded("TestRunIsAckedWhenItsJobsAreQueued", "a run is acked although a job of it was released", mutant.In("worker/held.go",
		"return j.open == 0 && !j.released", "return j.open == 0")),
	guarded("TestHeldAnswersOnce", "a job is heartbeat while its result cannot be stored", mutant.In("worker/held.go",
		"		if reachable {", "		if true {")),
	guarded("TestNameIsNotTalkedAway", "a name that is held is yielded", mutant.In("worker/claim.go",
		"objects := c.held || c.instance < other", "objects := c.instance < other")),
	guarded("TestMachineFaultIsNoVerdict", "a suspended lane goes on pulling", mutant.In("worker/suspend.go",
		"	l.pause(true)\n", "")),
	guarded("TestBackupRunsOnAnotherWorker", "a worker is its own second worker", mutant.In("worker/pull.go",
		" || p.held.has(d.lane, d.jobs[0].seq)", "")),
	guarded("TestSupersededGenerationIsCutOff", "jobs of a closed lane run on", mutant.In("worker/lane.go",
		"	l.cancel(cause)\n", "")),

	guarded("TestAnswersOfTheStoreAreChecked", "an answer is any message of the store", mutant.In("client/store.go",
		"last(msg.Header, jetstream.StreamHeader) != s.stream || last(msg.Header, jetstream.SubjectHeader) != subject",
		"last(msg.Header, jetstream.StreamHeader) != s.stream")),
	guarded("TestSentOn", "a live message may want an answer", mutant.In("client/store.go",
		"msg.Subject != live || msg.Reply != \"\"", "msg.Subject != live")),
	guarded("TestMalformedRecord", "a record says by itself where it belongs", mutant.In("client/store.go",
		"	if res.Seq != seq {", "	if false {")),
	guarded("TestStatesAreTheCallersOwn", "a state shares memory with the line", mutant.In("client/take.go",
		"prev, next := apart(c.asked.Data, res.Next)", "prev, next := c.asked.Data, res.Next")),
	guarded("TestAnswerToASeatThatWasLeft", "an answer to a seat that was left counts", mutant.In("client/credit.go",
		"l.seat.gen != sent.Gen || l.seat.number != sent.Seat", "l.seat.gen == \"\"")),
	guarded("TestNoticesOfBefore", "a notice of the reader's own seat displaces it", mutant.In("client/credit.go",
		"said.Seat > l.seat.number && l.seat.displaced", "l.seat.displaced")),
	guarded("TestDeposedOwnerAnswers", "an owner of a seat before is believed", mutant.In("client/credit.go",
		"	case said.Seat < sent.Seat:", "	case false:")),
	guarded("TestNoticesOfBefore", "a notice may come from anywhere", mutant.In("client/beat.go",
		"	if m.Subject != wire.NoticePrefix+\".\"+c.cfg.Name || m.Reply != \"\" {", "	if false {")),
	guarded("TestDigestMismatch", "what the store holds is not compared with its digest", mutant.In("client/fetch.go",
		"wire.Sum(buf); got != res.Digest {", "wire.Sum(buf); false && got != res.Digest {")),
	guarded("TestStopWhileTaking", "the end of a run does not end its context", mutant.In("client/run.go",
		"	r.cancel(err)\n", "")),

	guarded("TestKilledWorkerIsReplaced", "a killed worker lives", mutant.In("embedded/embedded.go",
		"	kill()\n", "")),
	guarded("TestKilledWorkerIsReplaced", "a killed worker's error is the service's", mutant.In("embedded/embedded.go",
		"if killed.Load() {", "if false {")),
	guarded("TestCloseSaysWhatWentWrong", "a role's error is lost", mutant.In("embedded/embedded.go",
		"		s.errs = append(s.errs, err)\n", "")),
	guarded("TestTemporaryFolderIsRemoved", "the temporary folder stays", mutant.In("embedded/embedded.go",
		"	if s.dir != \"\" {", "	if false {")),
}

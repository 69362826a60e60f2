package main

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/gomlx/compute"
	"github.com/gomlx/compute/dtypes"
	"github.com/gomlx/compute/gobackend"
	. "github.com/gomlx/gomlx/core/graph" //nolint:staticcheck // the operators of a graph, as all GoMLX code has them
	"github.com/gomlx/gomlx/core/tensors"
	"github.com/gomlx/gomlx/ml/layers"
	"github.com/gomlx/gomlx/ml/layers/activation"
	"github.com/gomlx/gomlx/ml/model"
	"github.com/gomlx/gomlx/ml/model/initializer"
	"github.com/gomlx/gomlx/ml/train"
	"github.com/gomlx/gomlx/ml/train/metric"
	"github.com/gomlx/gomlx/ml/train/optimizer"

	"github.com/jetbatch/jetbatch/schema"
)

// weights is the scope of the network's variables.
const weights = "network"

// logits are the network: two convolutions, and one answer for each window of x, (rows, channel, time).
func logits(scope *model.Scope, x *Node, classes int) *Node {
	scope = scope.At(weights)
	x = Sub(x, ReduceAndKeep(x, ReduceMean, -1)) // each window is scaled by itself
	x = Div(x, AddScalar(Sqrt(ReduceAndKeep(Square(x), ReduceMean, -1)), 1e-6))
	x = TransposeAllAxes(x, 0, 2, 1)
	x = activation.Relu(convolution(scope.In("first"), x, 4, 4, 8))
	x = activation.Relu(convolution(scope.In("second"), x, 4, 2, 16))
	// No answer is preferred at first.
	return layers.DenseWithBias(scope.In("answer").WithInitializer(initializer.Zero), ReduceMax(x, 1), classes)
}

// convolution over the time of x, (rows, time, channel), whose kernel is some strides long. It is a product of
// matrices, which the Go backend does several times as fast as a layers.Convolution.
func convolution(scope *model.Scope, x *Node, stride, strides, channels int) *Node {
	rows, n := x.Shape().Dim(0), x.Shape().Dim(1)/stride
	x = Reshape(Slice(x, AxisRange(), AxisRange(0, n*stride)), rows, n, stride*x.Shape().Dim(2))
	var kernel []*Node
	for i := range strides {
		kernel = append(kernel, Slice(x, AxisRange(), AxisRange(i, n-strides+1+i)))
	}
	return layers.DenseWithBias(scope, Concatenate(kernel, -1), channels)
}

// class of each window: the largest of its labels y, (rows, 1, label).
func class(y *Node) *Node { return ReduceMax(ConvertDType(y, dtypes.Int32), 1, 2) }

// losses of windows, one for each: cross-entropy, not reduced, since each row counts as one of the whole batch.
func losses(y, logits []*Node) *Node {
	answers := logits[0]
	target := OneHot(class(y[0]), answers.Shape().Dim(-1), answers.DType())
	return Neg(ReduceSum(Mul(target, LogSoftmax(answers)), -1))
}

// Network is the model with its optimizer. A step of training is cut in two, Gradients and Update, so that ranks can
// add up their gradients between them.
type Network struct {
	store             *model.Store
	evaluation        *train.Trainer
	gradients, update *model.Exec
}

// NewNetwork has the variables of a checkpoint, as far as it has any, and random ones, always the same, where not.
func NewNetwork(classes int, saved *Checkpoint) (*Network, error) {
	// Sums in another order are other sums. The backend cuts an operation in the same way however many cores there are;
	// that operations run one by one only saves ranks from taking the cores from one another.
	backend, err := gobackend.New("ops_sequential")
	if err != nil {
		return nil, err
	}
	n := &Network{store: model.NewStore()}
	n.store.SetLoader(saved)
	if v := n.store.GetVariable(model.RNGStateVariableName); v != nil {
		v.SetTrainable(false) // GoMLX takes what a Loader has for weights, until its graph says that it is none
	} else if err := n.store.SetRNGStateFromSeed(1); err != nil {
		return nil, err
	}
	answer := func(scope *model.Scope, x *Node) *Node { return logits(scope, x, classes) }
	// The trainer evaluates only.
	n.evaluation = train.NewTrainer(backend, n.store, answer, losses, nil, nil, []metric.Interface{
		share("accuracy", right), share("first", first),
	})
	n.gradients, err = model.NewExec(backend, n.store, func(scope *model.Scope, x, y, weight *Node) *Node {
		scope.Store().SetTraining(x.Graph(), true)
		answers := answer(scope, x)
		sum := Mul(ReduceAllSum(losses([]*Node{y}, []*Node{answers})), weight)
		flat := []*Node{Reshape(sum, 1), Reshape(Mul(ReduceAllSum(right(y, answers)), weight), 1)}
		for _, g := range scope.BuildTrainableVariablesGradientsGraph(sum) {
			flat = append(flat, Reshape(g, g.Shape().Size()))
		}
		return Concatenate(flat, 0)
	})
	if err != nil {
		return nil, err
	}
	adam := optimizer.Adam().LearningRate(3e-3).Done().(train.OptimizeWithGradients)
	n.update, err = newUpdate(backend, n.store, adam)
	return n, err
}

// newUpdate takes the vector of Gradients apart for the optimizer.
func newUpdate(backend compute.Backend, store *model.Store, opt train.OptimizeWithGradients) (*model.Exec, error) {
	return model.NewExec(backend, store, func(scope *model.Scope, sums *Node) {
		var grads []*Node
		at := 2 // behind loss and accuracy
		for v := range scope.IterVariables() {
			if v.Trainable {
				end := at + v.Shape().Size()
				value := v.NodeValue(sums.Graph()) // the optimizer looks for variables that the graph uses
				grads = append(grads, Reshape(Slice(sums, AxisRange(at, end)), value.Shape().Dimensions...))
				at = end
			}
		}
		opt.UpdateGraphWithGradients(scope, grads, sums.DType())
	})
}

// right is 1 where the answer is the class, and 0 elsewhere.
func right(y, logits *Node) *Node { return is(y, ArgMax(logits, -1, dtypes.Int32)) }

// first is 1 where the class is the first, and 0 elsewhere.
func first(y, _ *Node) *Node { return is(y, ScalarZero(y.Graph(), dtypes.Int32)) }

func is(y, answer *Node) *Node { return ConvertDType(Equal(class(y), answer), dtypes.Float32) }

// share is the mean over all windows of an evaluation.
func share(name string, of func(y, logits *Node) *Node) metric.Interface {
	return metric.NewMeanMetric(name, name, metric.AccuracyMetricType, func(_ *model.Scope, y, logits []*Node) *Node {
		return ReduceAllMean(of(y[0], logits[0]))
	}, nil)
}

// Gradients is one vector: loss, accuracy, and the gradients of all variables, of the rows in b. Each row counts as one
// of rows.Of, so that the vectors of all parts of a batch add up to that of the batch, however it is cut.
func (n *Network) Gradients(b train.Batch, rows schema.Rows) ([]float32, error) {
	x, y, weight := b.Inputs[0], b.Labels[0], 1/float32(rows.Of)
	if rows.From == rows.To {
		// GoMLX has no graphs of no rows: one row that weighs nothing does as well.
		x, y, weight = oneRow(x), oneRow(y), 0
	}
	out, err := n.gradients.Call1(x, y, weight)
	if err != nil {
		return nil, err
	}
	defer out.FinalizeAll()
	return tensors.CopyFlatData[float32](out)
}

// oneRow is a row of zeros as t has rows.
func oneRow(t *tensors.Tensor) *tensors.Tensor {
	shape := t.Shape().Clone()
	shape.Dimensions[0] = 1
	return tensors.FromShape(shape)
}

// Update is one step of the optimizer along the sum of Gradients.
func (n *Network) Update(sums []float32) error {
	_, err := n.update.Call(sums)
	return err
}

// Evaluate returns the mean loss and the accuracy over all windows of a data set, and the share of the first class.
func (n *Network) Evaluate(d train.Dataset) (loss, accuracy, first float64, err error) {
	out, err := n.evaluation.Eval(d)
	if err != nil {
		return 0, 0, 0, err
	}
	value := func(i int) float64 { return float64(tensors.ToScalar[float32](out[i])) }
	return value(0), value(1), value(2), nil
}

// variables that training changes, by path: weights, and what the optimizer remembers, but no sums of an evaluation.
func (n *Network) variables() []*model.Variable {
	var all []*model.Variable
	for v := range n.store.IterVariables() {
		if !strings.HasPrefix(v.Path(), model.JoinPath("/", metric.Scope)) {
			all = append(all, v)
		}
	}
	slices.SortFunc(all, func(a, b *model.Variable) int { return cmp.Compare(a.Path(), b.Path()) })
	return all
}

// Digest of the weights: equal for networks that are equal bit for bit.
func (n *Network) Digest() (string, error) {
	h := sha256.New()
	for _, v := range n.variables() {
		if !strings.HasPrefix(v.Path(), model.JoinPath("/", weights)) {
			continue
		}
		value, err := v.Value()
		if err != nil {
			return "", err
		}
		h.Write([]byte(v.Path()))
		if err := value.ConstBytes(func(data []byte) { h.Write(data) }); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}

"""The figures of the main job, with the words that go with them.

A figure is a function from `Results`, and from nothing else, to a figure of
matplotlib, or to None where the run left out what it would show: the page then
says so. Seven figures cost about six seconds.
"""

from taskvec_jax.report import first_epoch_figures
from taskvec_jax.report import pictures
from taskvec_jax.report import response_figures
from taskvec_jax.report import second_order_figures

PICTURES = (
    pictures.Picture(
        name='rates',
        claim=2,
        title='Gap and residuals against the learning rate',
        alt=(
            'Log-log plots, one for each number of epochs and kind of batches:'
            ' the norm of the gap, of what the second-order term leaves of it'
            ' and of what linear response leaves, against the learning rate,'
            ' with reference lines of slope 2 and 3.'
        ),
        reading=(
            'Both axes are logarithmic, so a power law is a straight line and'
            ' its slope is the power. The gap (black) should run along the'
            ' dotted line of slope 2; what the predictions leave should run'
            ' along slope 3. The dotted lines are drawn beside the points on'
            ' purpose: compare directions, not heights. The fitted slopes are'
            ' in the legends.'
        ),
        draw=second_order_figures.rates,
    ),
    pictures.Picture(
        name='response_map',
        claim=3,
        title='Where each prediction can be used',
        alt=(
            'Three heat maps over epochs and step size: the share of the gap'
            ' left by the second-order term, the share left by linear'
            ' response, and the a posteriori indicator, in per cent.'
        ),
        reading=(
            'Each cell is one run: epochs to the right, larger steps upwards.'
            ' Numbers are per cent; bold cells are below 15%, where the'
            ' prediction is of use; above 100% it is worse than predicting no'
            ' gap at all. Hatched: the run or the prediction diverged. The'
            ' orange line, where the map reaches that far, is the edge of'
            ' stability. The indicator (right) needs no finetuned model; it'
            ' is of use if it is dark where the middle map is dark.'
        ),
        draw=response_figures.response_map,
    ),
    pictures.Picture(
        name='gap_by_epochs',
        claim=3,
        title='Measured and predicted gap by epochs and step size',
        alt=(
            'One panel for each step size: the norm of the gap relative to the'
            ' length of multitask training against epochs, measured, predicted'
            ' by the second-order term and by linear response.'
        ),
        reading=(
            'Black is measured. A prediction is good where its line lies on'
            ' the black one; the second-order term (orange, dashed) leaves it'
            ' first, upwards. Where a line leaves the top of a panel the'
            ' prediction is more than ten times too large. Equal lengths do'
            ' not yet mean equal directions: the map above compares both.'
        ),
        draw=response_figures.gap_by_epochs,
    ),
    pictures.Picture(
        name='ladder',
        claim=4,
        title='The ladder of bounds',
        alt=(
            'Horizontal bars on a logarithmic scale: each bound as a multiple'
            ' of the second-order term, and the two certificates as multiples'
            ' of the measured gap.'
        ),
        reading=(
            'A bar of length zero would be an exact bound; each factor of ten'
            ' is the same length. Blue bars are proven bounds, amber ones'
            ' estimates from the spectrum. What a bound knows grows from top'
            ' to bottom: from norms of the weights alone to the network’s'
            ' state at each image.'
        ),
        draw=second_order_figures.ladder,
    ),
    pictures.Picture(
        name='first_epoch',
        claim=5,
        title='Share of the path and cosines by epoch',
        alt=(
            'For each regime three plots by epoch: the share of the path'
            ' length, the cosine of each update with the first, and the'
            ' cosines of the task vector with the first and the converged one.'
        ),
        reading=(
            'Lines are means over tasks and seeds, bands hold 80% of the'
            ' runs; a line ends where fewer than half of the runs go on.'
            ' Left: how much of the total length of the path each epoch'
            ' walks. Middle: whether later updates still point along the'
            ' first. Right: solid, how far the task vector turns away from'
            ' where it pointed after one epoch; dashed, how much it already'
            ' points where it will end. The dotted line is 0.71, the'
            ' criterion of the claim.'
        ),
        draw=first_epoch_figures.first_epoch,
    ),
    pictures.Picture(
        name='merging',
        claim=6,
        title='Accuracy by epochs of finetuning before merging',
        alt=(
            'For each regime: test accuracy, mean over the tasks, against the'
            ' epochs of finetuning, for merged models with the two rules for'
            ' alpha, single-task, multitask and base models.'
        ),
        reading=(
            'Compare the first point of a merged line with its last: one'
            ' epoch before merging against convergence. Bars are one standard'
            ' deviation over seeds; most of it is common to all models of a'
            ' seed, which is why the verdict compares seed by seed.'
        ),
        draw=first_epoch_figures.merging,
    ),
    pictures.Picture(
        name='similarity',
        claim=6,
        title='Cosines between task vectors',
        alt=(
            'Tables of cosines between the task vectors of every two tasks,'
            ' after the first epoch and converged, with their lengths.'
        ),
        reading=(
            'Means over seeds. Vectors that are added interfere where they'
            ' are not orthogonal: positive cosines (violet) add up, negative'
            ' ones (orange) undo one another. Beside each name stands the'
            ' length of its vector: a long one outweighs short ones in a sum'
            ' with equal coefficients.'
        ),
        draw=first_epoch_figures.similarity,
    ),
)

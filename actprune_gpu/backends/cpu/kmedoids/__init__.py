"""k-medoids for every k = 2..N-1, in about N^2 log N, with the simplified silhouettes for free.

A chain walks up the k axis from PAM's greedy BUILD: each k starts from the optimum of k - 1 plus
the best addition, and about one swap is left to do. Another walks down, each k from the optimum of
k + 1 less the cheapest medoid. Few points get one chain each way; where the two meet, each goes on
over what the other has done, and crosses its clustering of every k with that one: points whose
medoids are the same in both part the plane into regions, and of each the better half is taken. At
every k some random kicks follow. Many points get chains for segments of k, up and then down, which
depend on N alone. As optima of single swaps differ most at small k, with few points each of these
is then crossed with the optimum that a random start leads to, and with that of every second medoid
of the clustering by twice as many; with more points the kicks are for small k only. Every swap is
the steepest one of all (medoid, candidate) pairs, with ties to the lowest medoid and then the
lowest candidate, and what is random has a fixed seed, so the result does not depend on how the
search is organised.

The loss change of "remove medoid i, add candidate c" splits into (Schubert and Rousseeuw 2021)

    removal[i] + gain[c] + correction(i, c)

where gain[c] = sum_j min(D[c, j] - near_j, 0) over all points, removal[i] is the sum of
second_j - near_j over the points of cluster i, and correction(i, c) the sum over the same points of
min(max(D[c, j], near_j) - second_j, 0). The correction is 0 unless c is closer to some point of
the cluster than that point's second medoid, which the triangle inequality confines to a ball round
medoid i of radius reach[i] = max_j near_j + second_j; it is never positive. So the best swap of i
is removal[i] + min(best[i], min_c gain[c]), best[i] = min of gain[c] + correction where that is not
0. After an addition or a removal, removal[i] is kept exact; best[i] is found anew for the medoids
whose points have a farther second medoid, and for all others lowered by as much as a gain in the
ball has fallen, which makes it a bound: it is found anew only if the bound would allow a swap. For
a large cluster, the blocks that cannot hold the best candidate are found from one of their points,
their pivot.

Distances are integers (fixed point): their sums are exact in any order, as long as they stay below
2**53, in float64 too, which vector units can do. Points are put in an order in which neighbours lie
together, and looked at in blocks of 16; that order has no influence on the result.
"""

from .chain import ahead
from .sweep import kmedoids_sweep, simplified_silhouette

__all__ = ["ahead", "kmedoids_sweep", "simplified_silhouette"]

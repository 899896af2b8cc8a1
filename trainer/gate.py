"""The gate: does the evidence suffice to promote?

Pure functions of the measurements and of what was decided before. Every candidate that is looked at gets a number k and
two budgets of its own: its first look may err with probability `first_level(k)`, all that follows while it is the
challenger with `follow_level(k)` together. Over all k they sum to less than .05, for ever. By the union bound the
chance that any night of a whole life promotes a model that is not better stays below that, whatever the dependence
between nights, candidates and reused queries, and however the challenger was picked from its rivals.
"""

from dataclasses import dataclass, field

from .recipe import Promotion
from .sample import INTERVAL_Z, Estimate, Sample
from .votes import Votes

SCREEN_Z = 0.0  # on the development split, which is small: a candidate that does not even gain there gets no look
LARGE_LOSS = 0.1  # of nDCG@10 on the development split: more than that was never only unseen
HOPELESS_Z = 1.645  # a challenger is dropped when so many standard errors above its mean no worthwhile gain is left
FIRST_LOOKS = 7
FIRST_LOOKS_BONUS = 2e-4
FIRST_BUDGET, FOLLOW_BUDGET = 0.036, 0.012
PACE = 150  # of k; how slowly both budgets are spent
CHALLENGER_NIGHTS = 28  # its own first one included
FEW = 30  # with fewer query clusters, or people, nothing is ruled out
# Of the gain on the lists that people saw, without which votes do not count. A model that they prefer, and that gains
# nothing, comes to it with 4 % on one of 27 nights.
LISTS_Z = 2.5
_HARMONIC = sum(1 / night for night in range(2, CHALLENGER_NIGHTS + 1))


@dataclass(frozen=True, slots=True)
class Challenger:
    """A candidate that was short of evidence, and all of its evidence: query clusters and people, each counted once.

    `k` is its number, `nights` how many nights it has been judged on, its own first one included. `looked`: it had a
    first look. `lists`: what the clicks on the lists that people vote about say of it; None where that was not asked.
    """

    k: int
    nights: int
    queries: Sample
    people: Votes = field(default_factory=Votes)
    looked: bool = True
    lists: Sample | None = None

    @property
    def by_people(self) -> float:
        """The p-value of votes. A vote says who is better and not by how much: who finds nothing any more votes like
        who finds it second instead of first. So votes say nothing as long as the lists do not gain, too.
        """
        counts = self.lists is None or (self.lists.n >= FEW and self.lists.z >= LISTS_Z)
        return self.people.p_value if counts else 1.0

    @property
    def z(self) -> float:
        """Of the stronger evidence."""
        people = self.people.z if self.lists is None else min(self.people.z, self.lists.z)
        return max(self.queries.z, people)

    @property
    def budget(self) -> float:
        """With what probability all nights from the second on may err: whoever had no first look has its budget too."""
        return follow_level(self.k) + (0.0 if self.looked else first_level(self.k))


@dataclass(frozen=True, slots=True)
class Decision:
    """`outcome`: promoted, rejected or not_enough_evidence, of the model that `sample` is about.

    `look` is 0 when no budget was spent; `level` is what was allowed, `p_value` what was found. `by`: whose evidence
    decided, "queries" or "people".
    """

    outcome: str
    reasons: tuple[str, ...]
    sample: Sample | Votes
    look: int = 0
    level: float = 0.0
    p_value: float = 1.0
    by: str = "queries"

    @property
    def open(self) -> bool:
        """Whether more evidence about the same candidate could promote it."""
        return self.outcome == "not_enough_evidence" and self.look > 0


def first_level(k: int) -> float:
    """a_k = .036 · 150 / ((k + 149)(k + 150)), and 2e-4 more for k ≤ 7. The sum over all k is .0374."""
    return FIRST_BUDGET * _pace(k) + (FIRST_LOOKS_BONUS if k <= FIRST_LOOKS else 0.0)


def follow_level(k: int) -> float:
    """b_k = .012 · 150 / ((k + 149)(k + 150)), for all later nights of candidate k. The sum over all k is .012."""
    return FOLLOW_BUDGET * _pace(k)


def night_level(budget: float, night: int) -> float:
    """What queries, and as much again people, may spend of it on night 2 to 28: early nights get more."""
    return budget / 2 / (night * _HARMONIC)


def screen(development: Sample) -> Decision | None:
    """Why a new candidate is not worth a look at the holdout, or None for one that is."""
    if development.z > SCREEN_Z:
        return None
    reason = (
        f"on the development split the candidate gains {development.mean:+.4f} ± {development.error:.4f} "
        f"(z = {development.z:.2f}, needed > {SCREEN_Z:g}, {development.n} clusters): no look at the holdout was spent"
    )
    return Decision("rejected", (reason,), development)


def ask_people(refused: Decision, looks: int) -> Decision:
    """On what the screen refused while nobody else is followed. The screen counts what was never shown as nothing:
    under strong position bias that hides most of what a better model finds, and only people who see its results can
    tell. But a large loss that is certain is believed.
    """
    if refused.sample.high < -LARGE_LOSS:
        return refused
    return unheard(refused.reasons, looks)


def unheard(reasons: tuple[str, ...], looks: int) -> Decision:
    """On a candidate that has no evidence yet and people can tell about. It takes number k, and may spend the budget of
    the first look that it did not have on its later nights.
    """
    k = looks + 1
    return Decision("not_enough_evidence", (*reasons, f"only people can tell; it takes number {k}"), Sample(), k)


def unlooked(holdout: Sample) -> Decision:
    """On a candidate that is refused whatever the holdout says."""
    if holdout.n > 1:
        found = f"the candidate changes nDCG@10 by {_interval(holdout)} on {holdout.n} query clusters of the holdout"
    else:
        found = "hardly any query judges the candidate"
    return Decision("rejected", (f"{found}: no look was spent",), holdout)


def decide(holdout: Sample, looks: int, dials: Promotion) -> Decision:
    """On a new candidate that passed the screen. `looks` were taken at candidates of earlier nights."""
    if holdout.n < dials.min_queries:
        reason = f"{holdout.n} judged query clusters; at least {dials.min_queries} are needed. No look was spent"
        return Decision("not_enough_evidence", (reason,), holdout)
    k = looks + 1
    level, p = first_level(k), holdout.p_value
    facts = (
        f"the candidate changes nDCG@10 by {_interval(holdout)} on {holdout.n} query clusters of the holdout",
        f"look {k} of this service's life: p = {p:.2g}, allowed a = {level:.2g}",
    )
    outcome, reason = _outcome(holdout, p, level, dials.min_effect)
    return Decision(outcome, (*facts, reason), holdout, k, level, p)


def follow(challenger: Challenger, dials: Promotion) -> Decision:
    """On the challenger after one more night. Promoted by either kind of evidence, unless people prefer the champion,
    by their votes or by the clicks on the lists that they saw: queries have no such veto, because what the champion did
    not show counts as nothing in them.
    """
    k, nights = challenger.k, challenger.nights
    level = night_level(challenger.budget, nights)
    queries, people, lists = challenger.queries, challenger.people, challenger.lists
    by_queries, by_people = queries.p_value, challenger.by_people
    facts = (
        f"after {nights} nights the challenger (number {k}) changes nDCG@10 by {_interval(queries)} on {queries.n} "
        f"query clusters: p = {by_queries:.2g}, allowed {level:.2g}"
        if queries.n > 1
        else f"after {nights} nights hardly any query judges the challenger (number {k})",
        f"{people.n} people saw both where they differ, and prefer it by {_interval(people)} votes: "
        f"p = {people.p_value:.2g}, allowed {level:.2g}"
        if people.n > 1
        else "hardly anybody's preference is known",
        *([] if lists is None or lists.n < 2 else [_on_lists(lists)]),
    )
    found: Sample | Votes = queries
    p = by_queries
    # People decide also where the queries are more certain, but that it is less.
    if by_people < by_queries or (by_people <= level and queries.mean < dials.min_effect):
        found, p = people, by_people

    def answer(outcome: str, reason: str) -> Decision:
        return Decision(outcome, (*facts, reason), found, k, level, p, "people" if found is people else "queries")

    told, heard = queries.n >= FEW, people.n >= FEW
    disliked = heard and (people.z < -INTERVAL_Z or (lists is not None and lists.z < -INTERVAL_Z))
    if disliked or (told and queries.high < dials.min_effect and people.mean <= 0):
        return answer("rejected", "a worthwhile gain can be ruled out")
    if p <= level and nights <= CHALLENGER_NIGHTS:
        if found is queries and queries.mean < dials.min_effect:
            return answer("rejected", f"it is better, but by less than is worth a switch ({dials.min_effect:g})")
        return answer("promoted", "it is really better")
    if told and queries.mean + HOPELESS_Z * queries.error < dials.min_effect and people.mean <= 0:
        return answer("rejected", f"a gain of {dials.min_effect:g} has become improbable")
    if nights >= CHALLENGER_NIGHTS:
        return answer("rejected", f"no proof in {CHALLENGER_NIGHTS} nights")
    return answer("not_enough_evidence", "this could still be chance")


def stronger(candidate: Sample | Votes, challenger: Challenger | None) -> bool:
    """Whether a candidate short of evidence takes the challenger's place."""
    return challenger is None or candidate.z > challenger.z


def _outcome(found: Sample, p: float, level: float, min_effect: float) -> tuple[str, str]:
    if found.high < min_effect:
        return "rejected", f"a gain of {min_effect:g} can be ruled out"
    if p > level:
        return "not_enough_evidence", "p > a: this could be chance"
    if found.mean < min_effect:
        return "rejected", f"it is better, but by less than the smallest gain worth a switch ({min_effect:g})"
    return "promoted", "p ≤ a: it is really better"


def _on_lists(found: Sample) -> str:
    changes = f"on the lists that people saw it changes nDCG@10 by {_interval(found)} on {found.n} query clusters"
    return f"{changes}: z = {found.z:.2f}, {LISTS_Z:g} is needed for votes to count"


def _pace(k: int) -> float:
    return PACE / ((k + PACE - 1) * (k + PACE))


def _interval(found: Estimate) -> str:
    return f"{found.mean:+.4f} (95 % interval {found.low:+.4f} to {found.high:+.4f})"

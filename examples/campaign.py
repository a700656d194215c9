"""A limit as a campaign: run it, kill it, run it again."""

from __future__ import annotations

from pathlib import Path

from distributed import Client, LocalCluster

from hepdask_ml import toy_limit

HERE = Path(__file__).parent


def main(ledger: str = "campaign.ledger") -> None:
    campaign = toy_limit(HERE / "workspace.json", ledger=ledger, precision=0.1)
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster) as client,
    ):
        limit = campaign.run(client)
    print(f"observed {limit.observed.value:.3f} +- {limit.observed.error:.3f}")
    print(f"{limit.toys:,} toys at {len(limit.points)} points are in {ledger}")


if __name__ == "__main__":
    main()

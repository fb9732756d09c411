import torch

from experiments.benchmarks.recursion import FromTheLeft, GainReused, Stream, Sums, WellAssociated, joint, run

STREAM, RIDGE = Stream(batches=6, batch=32, features=64, classes=5, inputs=16), 0.1


def test_every_way_ends_at_the_joint_solution():
    wanted, said = joint(STREAM, RIDGE)
    x, y = (torch.cat(parts) for parts in zip(*STREAM, strict=True))
    stacked = torch.cat([x, RIDGE**0.5 * torch.eye(64, dtype=torch.float64)])
    oracle = torch.linalg.lstsq(stacked, torch.cat([y, torch.zeros(64, 5, dtype=torch.float64)])).solution
    assert torch.allclose(wanted, oracle, rtol=0, atol=1e-12) and said.rank == 64
    for make in (FromTheLeft, WellAssociated, GainReused):
        head, _, _ = run(STREAM, make(STREAM, RIDGE, torch.float64))
        assert torch.allclose(head, wanted, rtol=0, atol=1e-8)
    for fixed in (None, STREAM.fixed):
        head, _, _ = run(STREAM, Sums(RIDGE, fixed))
        assert torch.allclose(head, wanted, rtol=0, atol=1e-10)


def test_the_features_lie_on_the_grid_and_in_float32():
    for x, _ in STREAM:
        q, saturated = STREAM.fixed.encode(x)
        assert torch.equal(STREAM.fixed.decode(q), x) and saturated == 0
        assert torch.equal(x.to(torch.float32).to(torch.float64), x)

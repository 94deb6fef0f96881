"""Networks: any leading dimensions give the same as rows one by one; padding is never read."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils.flop_counter import FlopCounterMode

import pyrovae as pv
from pyrovae.guides import AmortizedGuide, DiagonalNormal
from pyrovae.models import Bernoulli, LatentVariableModel, StandardNormal
from pyrovae.nn import (
    GRU,
    MLP,
    AutoregressiveGRU,
    ConvDecoder,
    ConvEncoder,
    GatedTransition,
    SequenceEncoder,
    step_mask,
)

LENGTHS = torch.tensor([4, 1, 3])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def every_parameter_gets_a_gradient(network, *outputs):
    sum((o**2).sum() for o in outputs).backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not bool((p.grad != 0).any())]
    assert not silent


class TestMLP:
    def test_inputs_are_read_before_they_broadcast(self) -> None:
        network = MLP(300 + 4, (2, 3), hidden=[50, 6])
        x, labels = torch.randn(20, 300), torch.eye(4).unsqueeze(1)  # [20, 300] and [4, 1, 4]
        joined = torch.cat([x.expand(4, -1, -1), labels.expand(-1, 20, -1)], -1)
        with FlopCounterMode(display=False) as counter:
            given = network(x, labels)
        for ours, theirs in zip(given, network(joined), strict=True):
            assert_close(ours, theirs)
        later = 4 * 20 * (50 * 6 + 6 * 5)
        assert counter.get_total_flops() == 2 * (20 * 300 * 50 + 4 * 4 * 50 + later)

    def test_residual_layers_add_their_input(self):
        network = MLP(3, 2, hidden=[5, 5], residual=True)
        first, activation, block = network.body
        x = torch.randn(4, 3)
        h = activation(first(x))
        expected = network.heads[0](h + torch.relu(block.change[0](h)))
        torch.testing.assert_close(network(x), expected)

    def test_residual_without_effect_is_refused(self):
        with pytest.raises(ValueError, match=r"\[3, 5, 4\].*one size"):
            MLP(3, 2, hidden=[5, 4], residual=True)

    def test_wrong_size_says_both(self):
        with pytest.raises(ValueError, match=r"takes 3 features and got 2 \+ 2"):
            MLP(3, 2)(torch.zeros(1, 2), torch.zeros(1, 2))


class TestConvolution:
    @pytest.mark.parametrize("size", [(28, 28), (8, 8), (10, 6), (7, 5)])
    def test_shapes_of_any_size_and_leading_dimensions(self, size):
        shape = (2, *size)
        encoder, decoder = ConvEncoder(shape, (3, 4), channels=(4, 5)), ConvDecoder(3, shape, channels=(4, 5))
        for leading in [(), (2,), (3, 2), (2, 3, 2)]:
            loc, raw = encoder(torch.randn(*leading, *shape))
            assert loc.shape == (*leading, 3)
            assert raw.shape == (*leading, 4)
            assert decoder(loc).shape == (*leading, *shape)

    def test_leading_dimensions_are_rows(self):
        encoder, decoder = ConvEncoder((1, 8, 8), 3, channels=(4,)), ConvDecoder(3, (1, 8, 8), channels=(4,))
        x = torch.randn(2, 3, 1, 8, 8)
        torch.testing.assert_close(encoder(x)[1, 2], encoder(x[1, 2]))
        z = torch.randn(2, 3, 3)
        torch.testing.assert_close(decoder(z)[1, 2], decoder(z[1, 2]))

    def test_each_pixel_is_within_reach(self):
        """The last row and column of an odd image get gradients, and values of their own."""
        decoder = ConvDecoder(3, (1, 7, 5), channels=(4, 4))
        encoder = ConvEncoder((1, 8, 8), 3, channels=(4, 4))
        every_parameter_gets_a_gradient(decoder, decoder(torch.randn(2, 3)))
        image = torch.randn(1, 1, 8, 8, requires_grad=True)
        every_parameter_gets_a_gradient(encoder, encoder(image))
        assert bool((image.grad != 0).all())

    def test_context_joins(self):
        encoder = ConvEncoder((1, 8, 8), 3, context_features=2)
        x, y = torch.randn(4, 1, 8, 8), torch.randn(4, 2)
        assert encoder(x, y).shape == (4, 3)
        assert not torch.allclose(encoder(x, y), encoder(x, y + 1))
        with pytest.raises(ValueError, match=r"context of ConvEncoder takes 2 features and got no inputs"):
            encoder(x)

    def test_wrong_sizes_are_named(self):
        with pytest.raises(ValueError, match=r"6 by 3 cannot be halved 2 times.*at least 4 by 4"):
            ConvEncoder((1, 6, 3), 2)
        with pytest.raises(ValueError, match=r"\(C, H, W\)"):
            ConvDecoder(2, (28, 28))
        with pytest.raises(ValueError, match=r"\[\.\.\., 1, 8, 8\] and got \[5, 64\]"):
            ConvEncoder((1, 8, 8), 2)(torch.zeros(5, 64))
        with pytest.raises(ValueError, match=r"ConvDecoder takes 2 features and got 3"):
            ConvDecoder(2, (1, 8, 8))(torch.zeros(3))

    def test_image_vae_runs_through(self):
        x = (torch.rand(6, 1, 8, 8) > 0.5).float()
        model = LatentVariableModel(StandardNormal(2), Bernoulli(ConvDecoder(2, (1, 8, 8), channels=(4,))))
        vae = pv.VAE(model, AmortizedGuide(DiagonalNormal(ConvEncoder((1, 8, 8), (2, 2), channels=(4,)))))
        pv.fit(vae, x, epochs=1, seed=0, progress=False)
        assert vae.layout.guide_broadcasts
        assert vae.layout.model_broadcasts
        assert vae.encode(x).shape == (6, 2)
        assert vae.generate(3).shape == (3, 1, 8, 8)
        assert bool(pv.log_marginal(vae, x, num_samples=5, seed=0).log_marginal.isfinite().all())


class TestSequences:
    @pytest.mark.parametrize(
        "past, future, reads",
        [
            (True, False, lambda t, s: s <= t),
            (False, True, lambda t, s: s >= t),
            (True, True, lambda t, s: True),
        ],
    )
    def test_states_read_what_they_say(self, past, future, reads):
        """d state_t / d x_s is nonzero exactly where s is in the past (future) of t and both are real."""
        network = GRU(2, 3, past=past, future=future)
        x = torch.randn(3, 4, 2, requires_grad=True)
        states = network(x, LENGTHS)
        assert states.shape == (3, 4, network.out_features)
        for row, length in enumerate(LENGTHS.tolist()):
            for t in range(4):
                gradient = torch.autograd.grad(states[row, t].sum(), x, retain_graph=True)[0]
                for s in range(4):
                    expected = t < length and s < length and reads(t, s)
                    assert bool((gradient[row, s] != 0).all()) == expected
                gradient[row] = 0
                assert not gradient.any()

    def test_ragged_rows_are_as_if_alone(self):
        network = GRU(2, 3, future=True, num_layers=2)
        x = torch.randn(3, 4, 2)
        states = network(x, LENGTHS)
        for row, length in enumerate(LENGTHS.tolist()):
            torch.testing.assert_close(states[row, :length], network(x[row, :length]))
            assert not states[row, length:].any()

    def test_encoder_ignores_padding_even_its_gradient(self):
        encoder = SequenceEncoder(2, (3, 3), hidden_size=4)
        x = torch.randn(3, 4, 2)
        garbage = x.where(step_mask(LENGTHS, 4).unsqueeze(-1), torch.nan)
        for clean, dirty in zip(encoder(x, LENGTHS), encoder(garbage, LENGTHS), strict=True):
            assert torch.equal(clean, dirty)
        every_parameter_gets_a_gradient(encoder, *encoder(garbage, LENGTHS))
        assert all(bool(p.grad.isfinite().all()) for p in encoder.parameters())
        for row, length in enumerate(LENGTHS.tolist()):
            torch.testing.assert_close(encoder(x, LENGTHS)[0][row], encoder(x[row, :length])[0])

    def test_encoder_of_tokens(self):
        encoder = SequenceEncoder(5, 3, hidden_size=4, embedding=nn.Embedding(7, 5))
        tokens = torch.randint(7, (3, 4))
        garbage = tokens.where(step_mask(LENGTHS, 4), -100)
        assert torch.equal(encoder(tokens, LENGTHS), encoder(garbage, LENGTHS))

    def test_several_leading_dimensions(self):
        encoder, network = SequenceEncoder(2, 3, hidden_size=4), GRU(2, 3, future=True)
        x = torch.randn(5, 2, 3, 4, 2)
        assert encoder(x, LENGTHS).shape == (5, 2, 3, 3)
        torch.testing.assert_close(encoder(x, LENGTHS)[4, 1], encoder(x[4, 1], LENGTHS))
        torch.testing.assert_close(network(x, LENGTHS)[4, 1], network(x[4, 1], LENGTHS))

    def test_bad_input_is_named(self):
        with pytest.raises(ValueError, match=r"at least one of the two"):
            GRU(2, 3, past=False)
        with pytest.raises(ValueError, match=r"\[\.\.\., T, 2\] and got \[3, 4, 1\]"):
            GRU(2, 3)(torch.zeros(3, 4, 1))
        with pytest.raises(ValueError, match=r"row 1 of the batch has length 5: expected 1 to 4"):
            step_mask(torch.tensor([4, 5]), 4)
        with pytest.raises(ValueError, match=r"row 2 of the batch has length 0"):
            step_mask(torch.tensor([4, 3, 0]), 4)
        with pytest.raises(TypeError, match=r"lengths are torch.float32"):
            step_mask(torch.ones(2), 4)

    def test_autoregressive_logits_read_only_the_past(self):
        network = AutoregressiveGRU(2, num_categories=3, hidden_size=8)
        tokens, z = torch.randint(3, (4, 5)), torch.randn(6, 4, 2)
        logits = network(tokens, z)
        assert logits.shape == (6, 4, 5, 3)
        for s in range(5):
            changed = tokens.clone()
            changed[:, s] = (changed[:, s] + 1) % 3
            difference = (network(changed, z) - logits).abs().amax((0, 1, 3))
            assert bool((difference[: s + 1] == 0).all())
            assert bool((difference[s + 1 :] > 0).all())
        every_parameter_gets_a_gradient(network, logits)


def test_gated_transition_is_the_formula():
    network = GatedTransition(2, hidden_size=4)
    z = 3 * torch.randn(3, 50, 2)
    location, raw = network(z)
    gate, proposal = torch.sigmoid(network.gate(z)), network.proposal(z)
    torch.testing.assert_close(location, (1 - gate) * z + gate * proposal)  # A = I, b = 0 at the start
    torch.testing.assert_close(raw, network.scale(proposal.relu()))
    every_parameter_gets_a_gradient(network, location, raw)

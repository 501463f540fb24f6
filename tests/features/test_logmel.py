import numpy as np
import pytest

from lantern.features.extractors.logmel import BANDS, DIMS, LogMelStats, log_mel_stats
from lantern.features.types import Recipe
from tests.features.conftest import tone

PITCH, SD, VOICED = DIMS - 3, DIMS - 2, DIMS - 1


@pytest.mark.parametrize("hertz", [75.0, 110.0, 200.0, 333.0])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_pitch_of_a_voice_like_tone(hertz: float, rate: int) -> None:
    found = log_mel_stats(tone(hertz, 1.0, rate), rate)
    assert 27.5 * 2 ** (found[PITCH] / 12) == pytest.approx(hertz, rel=0.01)
    assert found[SD] < 0.2
    assert found[VOICED] > 0.95


def test_noise_and_silence_have_no_pitch() -> None:
    noise = np.random.default_rng(0).standard_normal(16_000) * 0.1
    for signal in (noise, np.zeros(16_000)):
        found = log_mel_stats(signal, 16_000)
        assert found[VOICED] < 0.05
        assert np.isfinite(found).all()
    assert log_mel_stats(np.zeros(16_000), 16_000)[PITCH] == 0


def test_bands_follow_the_frequency_and_the_level() -> None:
    low, high = (log_mel_stats(tone(hertz, 1.0, harmonics=1), 16_000)[:BANDS] for hertz in (200, 3000))
    assert low.argmax() < high.argmax()
    loud, quiet = (log_mel_stats(tone(200, 1.0, level=level), 16_000) for level in (0.4, 0.04))
    assert loud[2 * BANDS] - quiet[2 * BANDS] == pytest.approx(20, abs=0.1)
    assert loud[:BANDS].max() - quiet[:BANDS].max() == pytest.approx(np.log(100), abs=0.1)


def test_change_over_time_shows_in_the_sds() -> None:
    steady = log_mel_stats(tone(200, 1.0), 16_000)
    changing = log_mel_stats(np.concatenate([tone(120, 0.5), tone(240, 0.5, level=0.05)]), 16_000)
    assert changing[SD] > 5 > steady[SD]
    assert changing[2 * BANDS + 1] > 5 > steady[2 * BANDS + 1]
    assert changing[BANDS : 2 * BANDS].mean() > 2 * steady[BANDS : 2 * BANDS].mean()


def test_the_size_is_what_the_card_says_however_short_or_long() -> None:
    assert LogMelStats(Recipe("log-mel-stats")).card.dims == DIMS
    for seconds in (0.001, 0.03, 65.0):
        found = log_mel_stats(tone(150, seconds), 16_000)
        assert found.shape == (DIMS,)
        assert np.isfinite(found).all()


def test_a_long_recording_is_the_sum_of_its_blocks() -> None:
    once, often = (log_mel_stats(np.tile(tone(160, 1.0), n), 16_000) for n in (3, 60))
    np.testing.assert_allclose(once[:BANDS], often[:BANDS], atol=0.05)
    assert once[PITCH] == pytest.approx(often[PITCH], abs=0.1)

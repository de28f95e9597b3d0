"""PyTorch's BART, the oracle of the model: random checkpoints in Hugging Face format."""

from pathlib import Path

import torch
from transformers import BartConfig, BartForConditionalGeneration


def small_bart(vocab_size: int = 60, **changes: object) -> BartForConditionalGeneration:
    """Unequal depths, heads and widths, weights of a scale that makes every part matter."""
    torch.manual_seed(0)
    sizes = {
        "vocab_size": vocab_size,
        "d_model": 32,
        "encoder_layers": 2,
        "decoder_layers": 3,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 40,
        "max_position_embeddings": 64,
        "init_std": 0.2,
    }
    model = BartForConditionalGeneration(BartConfig(**{**sizes, **changes})).eval()
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:  # norms and biases, which start at 1 and 0
            parameter.data += 0.2 * torch.randn_like(parameter)
        assert parameter.requires_grad, name
    model.final_logits_bias.normal_()
    return model


def save(model: BartForConditionalGeneration, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder

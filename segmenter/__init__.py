"""The teacher: SAM 3 with LoRA adapters, its prompts, losses, training loop and tracking."""

"""What runs at night: click models, mining, fine-tuning, shadow index, gate, promotion, report."""

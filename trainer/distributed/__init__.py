"""The processes that train one run together. Nothing else imports torch.distributed."""

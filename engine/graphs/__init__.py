"""What torch.compile sees: normalisation, augmentation on the device, objective, scorer; and compilation itself."""

"""What the network learns from: the look of images, targets, and random crops."""

"""One forward pass of a model, and all that can be asked about its gradients: a file for each kind of model."""

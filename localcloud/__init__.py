"""EKS with Karpenter in a box: a real local cluster whose spot nodes can be interrupted, cut and powered off."""

"""What an interruption takes, on the whole local cluster: real kubelets, Karpenter, node agent, operator and trainer."""

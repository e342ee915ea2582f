"""What the operator costs at thousands of jobs, measured on a real control plane with hollow machines and trainers."""

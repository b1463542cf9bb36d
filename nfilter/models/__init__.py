"""Access of stages to models: journaled calls, allowed hosts, control tokens, measured speed."""

"""Many runs of one configuration: arms that differ in fields, each at several seeds, compared.

`plan` words them as cells, `runner` runs each as a process of its own, `results` compares what they
reached, `picture` draws it.
"""

"""c2dlib: classifier-to-detector distillation (Guo, Alvarez, Salzmann, NeurIPS 2021), reproduced.

Read in this order: ``types`` (the words), ``crops`` and ``losses`` (the equations), ``models/ssd`` (one
training step), ``methods`` (what each row of a table trains with), ``engine`` (the loop).
"""

__version__ = "0.1.0"

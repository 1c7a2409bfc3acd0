"""The papers that rules cite."""

BENGIO_1994 = (
    "Bengio, Simard & Frasconi (1994), Learning long-term dependencies with gradient descent is difficult, "
    "IEEE Transactions on Neural Networks 5(2)"
)
ENGELKEN_2023 = (
    "Engelken (2023), Gradient flossing: improving gradient descent through dynamic control of Jacobians, "
    "NeurIPS, arXiv:2312.17306"
)
GERS_2000 = (
    "Gers, Schmidhuber & Cummins (2000), Learning to forget: continual prediction with LSTM, Neural Computation 12(10)"
)
HOCHREITER_1997 = "Hochreiter & Schmidhuber (1997), Long short-term memory, Neural Computation 9(8)"
JOZEFOWICZ_2015 = (
    "Jozefowicz, Zaremba & Sutskever (2015), An empirical exploration of recurrent network architectures, ICML"
)
KALAMKAR_2019 = "Kalamkar et al. (2019), A study of BFLOAT16 for deep learning training, arXiv:1905.12322"
LE_2015 = (
    "Le, Jaitly & Hinton (2015), A simple way to initialize recurrent networks of rectified linear units, "
    "arXiv:1504.00941"
)
MICIKEVICIUS_2018 = "Micikevicius et al. (2018), Mixed precision training, ICLR, arXiv:1710.03740"
MIKHAEIL_2022 = (
    "Mikhaeil, Monfared & Durstewitz (2022), On the difficulty of learning chaotic dynamics with RNNs, NeurIPS"
)
PASCANU_2013 = (
    "Pascanu, Mikolov & Bengio (2013), On the difficulty of training recurrent neural networks, ICML, arXiv:1211.5063"
)
VASWANI_2017 = "Vaswani et al. (2017), Attention is all you need, NeurIPS, arXiv:1706.03762"
ZUCCHET_2024 = (
    "Zucchet & Orvieto (2024), Recurrent neural networks: vanishing and exploding gradients are not the end of the "
    "story, NeurIPS, arXiv:2405.21064"
)
